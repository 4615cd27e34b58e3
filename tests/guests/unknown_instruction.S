/* Accesses a device address with an instruction that KVM does not emulate, on any kind of host. */
#include "flat.h"
    entry
    print computing
    mov $NO_DEVICE, %ebx
#ifdef PVH
    popcnt (%ebx), %eax
#else
    popcnt (%rbx), %rax
#endif
4:  jmp 4b
computing: .asciz "computing\r\n"
