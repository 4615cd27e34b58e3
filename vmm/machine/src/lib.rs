//! The virtual machine on KVM: memory slots, interrupt controller, vCPUs, CPUID templates.
