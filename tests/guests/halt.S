/* Halts for good: no interrupt can wake it. */
#include "flat.h"
    entry
    print halting
    cli
    hlt
4:  jmp 4b
halting: .asciz "halting\r\n"
