/*
 * What the flat guests share. Each is one page of code that is assembled twice: entered in 64-bit mode by the Linux boot
 * protocol (rsi points to the boot parameters), and with PVH defined in 32-bit protected mode (ebx points to the start
 * information). The macros hide the difference, so the sources keep to instructions that both modes have.
 *
 * Everything runs in kernel mode, which some hosts emulate: only plain instructions, and short loops.
 */

#define COM1            0x3f8
#define RESET_PORT      0x64
#define RESET_COMMAND   0xfe
#define SLEEP_CONTROL   0x600
/* SLP_EN and SLP_TYP 5: ACPI 6.5, 4.8.3.7, sleep control register. */
#define ENTER_S5        0x34
#define PVPANIC         0x505
#define PVPANIC_PANICKED 1
/* Between RAM and the devices: nothing answers here. */
#define NO_DEVICE       0xd0000000

    .macro entry
#ifdef PVH
    .section .note.Xen, "a", @note
    .balign 4
    .long 4, 8, 18          /* XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .quad start
    .text
    .code32
#else
    .text
    .code64
#endif
    .globl start
start:
    address_of stack, sp
    .endm

    /* Sets the register, named without its size prefix, to the address of `label`. */
    .macro address_of label, register
#ifdef PVH
    mov $\label, %e\register
#else
    lea \label(%rip), %r\register
#endif
    .endm

    /* Counts the 64 or 32 bits up that the register points to. */
    .macro increment_at register
#ifdef PVH
    incl (%e\register)
#else
    incq (%r\register)
#endif
    .endm

    /* Writes the string at `label`, which ends with 0, to COM1. */
    .macro print label
    address_of \label, si
    mov $COM1, %dx
1:  lodsb
    test %al, %al
    jz 2f
    out %al, %dx
    jmp 1b
2:
    .endm

    .macro reset
    mov $RESET_COMMAND, %al
    out %al, $RESET_PORT
    /* The vCPU is not to come back from that. */
3:  jmp 3b
    .endm

    /* Begins the page that the harness reads and writes; it finds the page by these bytes. */
    .macro shared_page
    .section .shared, "aw"
    .balign 4096
    .ascii "stockade shared "
    .endm

    .bss
    .balign 16
    .space 256
stack:
