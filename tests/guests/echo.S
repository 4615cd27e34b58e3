/* Sends what it receives on COM1 back, and resets at a newline. */
#include "flat.h"
#define LINE_STATUS     (COM1 + 5)
#define DATA_READY      1
    entry
    print ready
4:  mov $LINE_STATUS, %dx
    in %dx, %al
    test $DATA_READY, %al
    jz 4b
    mov $COM1, %dx
    in %dx, %al
    out %al, %dx
    cmp $'\n', %al
    jne 4b
    reset
ready: .asciz "ready\r\n"
