/* Says that it is idle, and waits for interrupts that nothing sends. */
#include "flat.h"
    entry
    print idle
    sti
4:  hlt
    jmp 4b
idle: .asciz "idle\r\n"
