/* Takes an exception with an empty interrupt descriptor table: a triple fault. */
#include "flat.h"
    entry
    print faulting
#ifdef PVH
    lidt no_table
#else
    lidt no_table(%rip)
#endif
    ud2
faulting: .asciz "faulting\r\n"
no_table:
    .word 0
    .quad 0
