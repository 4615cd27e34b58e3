/* Counts in memory, for ever. */
#include "flat.h"
    entry
    print counting
    address_of counter, bx
4:  increment_at bx
    jmp 4b
counting: .asciz "counting\r\n"
    shared_page
counter: .quad 0
