/* Enters ACPI sleep state S5. */
#include "flat.h"
    entry
    print going
    mov $SLEEP_CONTROL, %dx
    mov $ENTER_S5, %al
    out %al, %dx
4:  jmp 4b
going: .asciz "powering off\r\n"
