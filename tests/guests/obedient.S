/* Says that it runs, and powers off once it is sent something from the keyboard: what control, alt and delete send. */
#include "flat.h"
#define KEYBOARD_STATUS 0x64
#define OUTPUT_FULL     1
    entry
    print running
4:  in $KEYBOARD_STATUS, %al
    test $OUTPUT_FULL, %al
    pause
    jz 4b
    mov $SLEEP_CONTROL, %dx
    mov $ENTER_S5, %al
    out %al, %dx
5:  jmp 5b
running: .asciz "obedient\r\n"
