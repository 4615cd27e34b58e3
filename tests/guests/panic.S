/* Reports a panic of its kernel through the pvpanic port, and goes on as a kernel does that halts. */
#include "flat.h"
    entry
    print panicking
    mov $PVPANIC, %dx
    mov $PVPANIC_PANICKED, %al
    out %al, %dx
4:  jmp 4b
panicking: .asciz "panicking\r\n"
