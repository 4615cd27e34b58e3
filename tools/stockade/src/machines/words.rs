//! Sizes, ages and owners, as people read them.

use std::collections::HashMap;
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stockade_api::Owner;

/// An amount of MiB, with the largest unit that leaves a number at least 1: `512M`, `1.5G`, `2T`.
pub fn size(mib: u64) -> String {
    let (unit, suffix) = match mib {
        0..0x400 => return format!("{mib}M"),
        0x400..0x10_0000 => (0x400, 'G'),
        _ => (0x10_0000, 'T'),
    };
    let tenths = (mib % unit) * 10 / unit;
    let whole = mib / unit;
    if tenths == 0 { format!("{whole}{suffix}") } else { format!("{whole}.{tenths}{suffix}") }
}

/// Time in the largest unit that leaves a number at least 1: `12s`, `3m`, `26h`, `4d`.
pub fn age(time: Duration) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    match time.as_secs() {
        seconds @ 0..MINUTE => format!("{seconds}s"),
        seconds if seconds < HOUR => format!("{}m", seconds / MINUTE),
        // Hours still tell today from yesterday.
        seconds if seconds < 2 * DAY => format!("{}h", seconds / HOUR),
        seconds => format!("{}d", seconds / DAY),
    }
}

/// How long ago `at_ms` was: milliseconds since 1970.
pub fn since(at_ms: u64) -> Duration {
    let then = UNIX_EPOCH.checked_add(Duration::from_millis(at_ms)).unwrap_or(UNIX_EPOCH);
    SystemTime::now().duration_since(then).unwrap_or_default()
}

/// `at_ms`, milliseconds since 1970, as RFC 3339 writes it.
pub fn moment(at_ms: u64) -> String {
    // What is beyond the year 9999 has no such form.
    const LAST_MS: u64 = 253_402_300_799_000;
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(at_ms.min(LAST_MS))).to_string()
}

/// Names of users and groups: those of this host's own files. Others are shown as numbers.
#[derive(Debug, Default)]
pub struct Names {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Names {
    /// Reads the names that there are.
    pub fn read() -> Self {
        let file = |path| by_number(&String::from_utf8_lossy(&fs::read(path).unwrap_or_default()));
        Self { users: file("/etc/passwd"), groups: file("/etc/group") }
    }

    /// An owner as `user` or `user:group`.
    pub fn owner(&self, owner: Owner) -> String {
        let user = self.user(owner.uid);
        owner.gid.map_or(user.clone(), |gid| format!("{user}:{}", named(&self.groups, gid)))
    }

    /// A user.
    pub fn user(&self, uid: u32) -> String {
        named(&self.users, uid)
    }
}

fn named(names: &HashMap<u32, String>, number: u32) -> String {
    names.get(&number).cloned().unwrap_or_else(|| number.to_string())
}

/// Names by their numbers; the first one counts (passwd(5), group(5): `name:password:number:...`).
fn by_number(file: &str) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in file.lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(Ok(number))) = (fields.next(), fields.nth(1).map(str::parse)) {
            names.entry(number).or_insert_with(|| name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (mib, text) in
            [(0, "0M"), (1023, "1023M"), (1024, "1G"), (1536, "1.5G"), (1 << 20, "1T"), ((1 << 20) - 1, "1023.9G")]
        {
            assert_eq!(size(mib), text);
        }
        assert_eq!(size(u64::MAX), "17592186044415.9T");
    }

    #[test]
    fn ages() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (60, "1m"), (3599, "59m"), (86_400, "24h"), (172_800, "2d")] {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
        assert_eq!(since(u64::MAX), Duration::ZERO);
        assert_eq!(moment(0), "1970-01-01T00:00:00Z");
        assert_eq!(moment(u64::MAX), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn owners() {
        let names = Names {
            users: by_number("root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:\nbroken\na:x:b\nada:x:1000:1000::/:\n"),
            groups: by_number("kvm:x:106:ada\n"),
        };
        let owner = |uid, gid| names.owner(Owner { uid, gid });
        assert_eq!(owner(0, None), "root");
        assert_eq!(owner(1000, Some(106)), "ada:kvm");
        assert_eq!(owner(1001, Some(1)), "1001:1");
    }
}
