/* Writes to COM1 without an end, and counts the bytes. */
#include "flat.h"
    entry
    address_of counter, bx
    mov $COM1, %dx
4:  mov $'x', %al
    out %al, %dx
    increment_at bx
    jmp 4b
    shared_page
counter: .quad 0
