//! What `--help` and the man pages say after the options: exit codes and examples.

/// Exit codes of the verbs that the daemon carries out.
macro_rules! exit_codes {
    () => {
        "\
Exit code:
  0      done
  1      tried, and failed
  4      no such virtual machine
  5      not permitted
  6      nothing to do: it runs already, or does not run, or is paused already, or is not
  7      something is in the way: its state, or a name or file that is in use
  8      a limit: a quota, memory or processors of the host, too many requests
  9      something that this Stockade does not have yet
  10     a name, value, file or configuration that can't be used
  11     the daemon is not running
  12     the daemon hung up, or what answered is none; it may have been done
  125    stockade itself failed, for instance because of a wrong option
An error is one line on standard error; with --json, a document with code, message and remedy."
    };
}

/// Exit codes, and examples.
macro_rules! with_examples {
    ($($line:literal)*) => {
        concat!(exit_codes!(), "\n\nExamples:", $("\n  ", $line),*)
    };
}

/// Exit codes of the verbs that the daemon carries out.
#[cfg(test)]
pub const EXIT_CODES: &str = exit_codes!();

/// Of `stockade status`.
pub const STATUS: &str = with_examples! {
    "stockade status"
    "stockade status -r"
    "stockade status --json | jq -r '.[] | select(.state == \"running\") | .name'"
};

/// Of `stockade ps`.
pub const PS: &str = with_examples! {
    "stockade ps"
    "stockade ps -a"
};

/// Of `stockade switches`.
pub const SWITCHES: &str = with_examples! {
    "stockade switches"
    "stockade switches --json | jq -r '.[] | select(.link == null) | .interface'"
};

/// Of `stockade start`.
pub const START: &str = with_examples! {
    "stockade start web"
    "stockade start web-2 -t web -m 1G"
    "stockade start try --kernel ./bzImage --initramfs ./initramfs.cpio --cpus 2"
    "stockade start try -d disk.img -d data.img:ro"
};

/// Of `stockade stop`.
pub const STOP: &str = with_examples! {
    "stockade stop web"
    "stockade stop -w web"
    "stockade stop -f 3"
    "stockade stop -aw"
};

/// Of `stockade wait`.
pub const WAIT: &str = with_examples! {
    "stockade wait build && echo over"
    "stockade wait build --json | jq -r .exit.cause"
};

/// Of `stockade pause` and `stockade unpause`.
pub const PAUSE: &str = with_examples! {
    "stockade pause web"
    "stockade unpause web"
};

/// Of `stockade reload`.
pub const RELOAD: &str = with_examples! {
    "stockade reload"
};

/// Of `stockade load`.
pub const LOAD: &str = with_examples! {
    "stockade load /etc/stockade/more.conf"
};

/// Of `stockade reset`.
pub const RESET: &str = with_examples! {
    "stockade reset"
    "stockade reset vms"
};

/// Of `stockade log`.
pub const LOG: &str = with_examples! {
    "stockade log verbose"
    "stockade log brief"
};

/// Of `stockade events`.
pub const EVENTS: &str = with_examples! {
    "stockade events -f"
    "stockade events --after 1041"
    "stockade events -f --json | jq -r 'select(.change.state.state == \"stopped\") | .name'"
};

/// Of `stockade console`.
pub const CONSOLE: &str = with_examples! {
    "stockade console web                  ~. leaves it, ~? shows more"
    "stockade console -r web | tee log     what is kept of it, and what comes"
    "echo reboot | stockade console web    typed, after which the console goes on"
};

/// Of `stockade logs`.
pub const LOGS: &str = with_examples! {
    "stockade logs web"
    "stockade logs -f -n 20 web"
};

/// Of `stockade create`.
pub const CREATE: &str = "\
Exit code:
  0      the image was made
  7      there is such a file already
  9      it would be of a format that this Stockade does not have yet
  10     it can't be made so: what it is a copy of, its size or its folder can't be used
  125    stockade itself failed, for instance because the disk is full

The image is made with mode 0600. It takes no more room on the disk than what is written to it.

Examples:
  stockade create -s 10G disk.img
  stockade create -i old.img -s 20G new.img";

/// Of `stockade run`.
pub const RUN: &str = "\
Exit code:
  that of the command, or
  128+n  signal n ended the command
  124    the command took longer than --timeout
  125    stockade itself failed
  126    the command could not be executed
  127    the command was not found
One line on standard error says which, unless it is the command's own.

If the daemon runs, and the caller is not root, it keeps the virtual machine: within the caller's quota, with files
that the caller may open, shown by stockade status, and gone with the command. --without and --binaries can't go that way.

Examples:
  stockade run -- uname -a
  stockade run -t
  stockade run --rootfs debian.ext4:rw --memory 1G -- apt-get update
  stockade run --daemon -- uname -a
  stockade run --copy-in src:/src --copy-out /src/out:out --workdir /src -- make";

/// Of `stockade exec`.
pub const EXEC: &str = "\
Exit code:
  that of the command, or
  128+n  signal n ended the command
  124    the command took longer than --timeout
  125    stockade itself failed: there is no such virtual machine, no agent in its guest, or no daemon
  126    the command could not be executed
  127    the command was not found
One line on standard error says which, unless it is the command's own.

The guest has to run stockade-agent, as that of `boot default` in vm.conf does; while it boots, it is waited for. If stockade
dies, the command is killed.

Examples:
  stockade exec web -- uname -a
  stockade exec -t web
  tar c . | stockade exec -w /srv web -- tar x";

/// Of `stockade inspect`.
pub const INSPECT: &str = "\
Exit code:
  0      every layer is on, as the jailer meant it
  3      a layer is weak, off, or not known to be on
  125    stockade itself failed: there is no such virtual machine or process, or it can't be looked at

What the kernel shows of no other process is what the jailer recorded: Landlock. A process that is in no jail of
Stockade's has no record.

Examples:
  stockade inspect build-17
  stockade inspect $(pidof firecracker)
  stockade inspect --json build-17 | jq .verdict.layers";

/// Of `stockade doctor`.
pub const DOCTOR: &str = "\
Exit code:
  0      no attempt succeeded with every layer on
  3      at least one did, or ended so that nobody can say; it is named
  125    stockade itself failed, and nothing is known

A hostile program takes the vmm's place in jails that are made for that, one for each attempt. It is after files,
processes, sockets and a virtual machine that are made for it as well; nothing else of the host is touched. It takes
root, and about two minutes, with --matrix three more.

With --matrix, jails lack one layer each, so the program has more rights there than any vmm ever has.

Examples:
  stockade doctor --attack
  stockade doctor --attack --matrix
  stockade doctor --attack --json | jq '.verdicts[] | select(.outcome == \"succeeded\")'";
