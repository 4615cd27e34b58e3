//! The command line that the kernel of the default guest is made for.

/// Everything that does not depend on the machine:
/// - `console=ttyS0 loglevel=1`: only an emergency reaches the console, which is what tells of a panic
/// - `panic=-1 reboot=k`: a panic, once reported to pvpanic, resets through the i8042, at once
/// - `tsc=reliable no_timer_check`: KVM's clocks need no calibration against others
/// - `swiotlb=noforce`: no device here needs bounce buffers, which would take 64 MiB
/// - `rodata=off`: saves the work of splitting mappings
/// - `pnpacpi=off`: every device here is found by other means than plug and play
const COMMON: &str = "console=ttyS0 loglevel=1 panic=-1 reboot=k tsc=reliable no_timer_check swiotlb=noforce \
    rodata=off pnpacpi=off";

/// With one vCPU nothing has to be patched for having one, which is what takes long.
const ONE_VCPU: &str = " noreplace-smp";

/// Command line for the default guest's kernel on a machine with so many vCPUs.
///
/// What the vmm appends about its devices comes after it.
///
/// # Examples
/// ```
/// let line = stockade_guest_protocol::kernel_command_line(1);
/// assert!(line.starts_with("console=ttyS0 "));
/// assert!(line.ends_with(" noreplace-smp"));
/// ```
#[must_use]
pub fn kernel_command_line(vcpus: u8) -> String {
    let mut line = COMMON.to_owned();
    if vcpus == 1 {
        line.push_str(ONE_VCPU);
    }
    line
}
