/*
 * Does what the harness says: reads and writes ports and memory, calls code. The harness puts operation, address and value
 * into the shared page, sets `request`, and waits until it is 0 again; the result is in `value` then. All of that goes
 * through guest memory, so no device is needed for it.
 *
 * Runs in 64-bit mode, interrupts off, on page tables that map the first 8 GiB to themselves.
 */
#include "flat.h"
    entry
#ifdef PVH
    movl $2, protocol
    movl %ebx, boot_information
    lgdt gdt_pointer
    mov %cr4, %eax
    or $0x20, %eax                  /* PAE */
    mov %eax, %cr4
    mov $pml4, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx           /* EFER */
    rdmsr
    or $0x100, %eax                 /* LME */
    wrmsr
    mov %cr0, %eax
    or $0x80000000, %eax            /* PG */
    mov %eax, %cr0
    ljmp $8, $long_mode
    .code64
long_mode:
#else
    movl $1, protocol
    mov %rsi, boot_information
    lea pml4(%rip), %rax
    mov %rax, %cr3
#endif
    mov $stack, %esp
    movb $1, ready

wait:
    cmpb $0, request
    je wait
    mov operation, %ebx
    mov address, %rdx
    mov value, %rax
    call *operations(,%rbx,8)
    mov %rax, value
    movb $0, request
    jmp wait

    .balign 8
operations:
    .quad in_8, in_16, in_32, out_8, out_16, out_32
    .quad read_8, read_16, read_32, read_64, write_8, write_16, write_32, write_64
    .quad call_code
in_8:       in %dx, %al
            ret
in_16:      in %dx, %ax
            ret
in_32:      in %dx, %eax
            ret
out_8:      out %al, %dx
            ret
out_16:     out %ax, %dx
            ret
out_32:     out %eax, %dx
            ret
read_8:     mov (%rdx), %al
            ret
read_16:    mov (%rdx), %ax
            ret
read_32:    mov (%rdx), %eax
            ret
read_64:    mov (%rdx), %rax
            ret
write_8:    mov %al, (%rdx)
            ret
write_16:   mov %ax, (%rdx)
            ret
write_32:   mov %eax, (%rdx)
            ret
write_64:   mov %rax, (%rdx)
            ret
call_code:  jmp *%rdx

    .balign 8
gdt:
    .quad 0, 0x00af9b000000ffff     /* 64-bit code */
gdt_pointer:
    .word . - gdt - 1
    .quad gdt

    shared_page
request:            .byte 0
ready:              .byte 0
                    .balign 8
operation:          .quad 0
address:            .quad 0
value:              .quad 0
protocol:           .quad 0
boot_information:   .quad 0

    .section .tables, "aw"
    .balign 4096
pml4:
    .quad page_directory_pointers + 3
    .fill 511, 8, 0
page_directory_pointers:
    .set gib, 0
    .rept 8
    .quad page_directories + gib * 4096 + 3
    .set gib, gib + 1
    .endr
    .fill 504, 8, 0
page_directories:
    .set page, 0
    .rept 8 * 512
    .quad page * 0x200000 + 0x83
    .set page, page + 1
    .endr
