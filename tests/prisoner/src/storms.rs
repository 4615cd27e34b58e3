//! Storms: what a hostile vmm does without end, until its jail is taken down. Each says on the report what stops it, once.
//!
//! They are made only in jails whose control group and resource limits are there. A process that a storm starts starts none itself.

use nix::errno::Errno;
use stockade_prisoner::descriptor::{CONSOLE, DISK, REPORT};
use stockade_prisoner::{DISK_BYTES, Storm};

use crate::sys::{call, touch};

const CHUNK_BYTES: u64 = 8 << 20;

/// Makes a storm.
pub fn make(storm: Storm) -> ! {
    let mut told = false;
    let mut tell = |what: &str| {
        if !told {
            told = true;
            let _ = call!(SYS_write, REPORT, what.as_bytes(), what.len());
        }
    };
    loop {
        let stopped = match storm {
            Storm::Processes => start_processes(),
            Storm::Memory => take_memory(),
            Storm::Descriptors => open_descriptors(),
            Storm::Disk => write_disk(),
            Storm::Console => call!(SYS_write, CONSOLE, [1_u8; 4096].as_slice(), 4096).map(|_| ()),
            Storm::Processor => {
                (0..1 << 20).for_each(|_| std::hint::spin_loop());
                Ok(())
            }
            Storm::Connections => connect_to_itself(),
        };
        if let Err(errno) = stopped {
            tell(errno.desc());
        }
    }
}

/// Starts processes that end soon, as many as there may be.
fn start_processes() -> Result<(), Errno> {
    let started = call!(SYS_clone, libc::SIGCHLD, 0, 0, 0, 0);
    if started == Ok(0) {
        let _ = call!(SYS_nanosleep, &[0_u64, 2_000_000], 0);
        std::process::exit(0);
    }
    // Those that have ended make room.
    while call!(SYS_wait4, -1, 0, libc::WNOHANG, 0).is_ok_and(|process| process > 0) {}
    started.map(|_| ())
}

fn take_memory() -> Result<(), Errno> {
    let memory = call!(SYS_mmap, 0, CHUNK_BYTES, 3, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)?;
    touch(memory, CHUNK_BYTES);
    Ok(())
}

/// Opens as many descriptors as there may be, and then closes them.
fn open_descriptors() -> Result<(), Errno> {
    call!(SYS_eventfd2, 0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK).map(|_| ()).inspect_err(|_| close_all())
}

/// Closes all descriptors but its own.
fn close_all() {
    (0..libc::c_int::from(i16::MAX)).filter(|number| !(900..1000).contains(number)).for_each(|number| {
        let _ = call!(SYS_close, number);
    });
}

/// Makes as many connections as there may be, with something on its way in each, and then closes them. Nobody else is there to be
/// reached, whatever it has tried, so they are its own.
fn connect_to_itself() -> Result<(), Errno> {
    let mut ends = [0_i32; 2];
    let connected = call!(SYS_socketpair, libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0, &mut ends);
    connected.inspect_err(|_| close_all())?;
    let full = call!(SYS_write, ends[0], [3_u8; 4096].as_slice(), 4096);
    full.map(|_| ()).inspect_err(|_| close_all())
}

/// Writes the whole disk over and over, has that written through, and then writes behind its end.
fn write_disk() -> Result<(), Errno> {
    const TIMES: u64 = 20;
    let chunk = [2_u8; 4096];
    let part = [chunk.as_ptr().expose_provenance() as u64, chunk.len() as u64];
    for _ in 0..TIMES {
        for at in (0..DISK_BYTES).step_by(chunk.len()) {
            call!(SYS_pwritev, DISK, &part, 1, at, 0)?;
        }
        call!(SYS_fdatasync, DISK)?;
    }
    call!(SYS_pwritev, DISK, &part, 1, DISK_BYTES, 0).map(|_| ())
}
