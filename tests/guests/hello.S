/* Says hello and resets. */
#include "flat.h"
    entry
    print hello
    reset
hello: .asciz "hello from the guest\r\n"
