//! Values that stand behind keywords: sizes, counts, owners, paths.
//!
//! Each function reports what is wrong itself, and then has no value.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::Checker;
use crate::definition::is_plain_text;
use crate::diagnostic::Diagnostic;
use crate::host::{Examined, FileKind};
use crate::model::{MemorySize, Owner};
use crate::source::Span;
use crate::syntax::tree::{Number, Scalar, Spanned, Text};

/// Most bytes of a path, path_resolution(7), without the null character.
const MAX_PATH_BYTES: usize = 4095;
const MIB: u128 = 1 << 20;

/// What a path is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Kernel,
    Initramfs,
    Disk,
    Cdrom,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Initramfs => "initramfs",
            Self::Disk => "disk",
            Self::Cdrom => "cdrom",
        }
    }

    fn too_long(self) -> &'static str {
        match self {
            Self::Kernel => "kernel name too long",
            Self::Initramfs => "initramfs name too long",
            Self::Disk => "disk path too long",
            Self::Cdrom => "cdrom name too long",
        }
    }
}

/// `[digits][.digits][suffix]` in bytes: vmd's scan_scaled(3), with suffixes B, K, M, G, T, P and E to the base 1024.
pub(super) fn scaled(text: &str) -> Option<u128> {
    let unsuffixed = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text.get(unsuffixed.len()..)?.to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        "P" => 50,
        "E" => 60,
        _ => return None,
    };
    let (whole, fraction) = unsuffixed.split_once('.').unwrap_or((unsuffixed, ""));
    let is_digits = |digits: &str, most| digits.len() <= most && digits.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !is_digits(whole, 20) || !is_digits(fraction, 18) {
        return None;
    }
    // 10^20 * 2^60 is below 2^127.
    let unit = 1_u128 << shift;
    let number = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<u128>().ok() };
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let part = number(fraction)?.checked_mul(unit)?.checked_div(scale)?;
    number(whole)?.checked_mul(unit)?.checked_add(part)
}

impl Checker<'_> {
    /// Memory, rounded down to MiB.
    pub(super) fn memory(&mut self, size: &Spanned<Scalar>) -> Option<MemorySize> {
        let (text, bytes) = match &size.value {
            Scalar::Number(number) => (number.to_string(), u128::try_from(*number).ok().or(Some(0))),
            Scalar::Text(text) => (text.clone(), scaled(text)),
        };
        let failed = Diagnostic::error(size.span, format!("failed to parse size: {text}"));
        let Some(bytes) = bytes else {
            self.report.push(
                failed
                    .label(format!("invalid memory size: {text}"))
                    .help("write bytes, or a number with K, M, G or T: 512M, 1.5G"),
            );
            return None;
        };
        if bytes < MIB {
            let remedy = match size.value {
                Scalar::Number(number) if number > 0 => format!("a number alone is bytes; did you mean {number}M?"),
                _ => "use 1M or more".to_owned(),
            };
            self.report.push(failed.label("size must be at least one megabyte").help(remedy));
            return None;
        }
        let mib = bytes / MIB;
        let rounded = u32::try_from(mib).ok().and_then(MemorySize::from_mib);
        let Some(rounded) = rounded else {
            self.report.push(failed.label("memory size too large (limit is 16T)"));
            return None;
        };
        if u128::from(rounded.bytes()) != bytes {
            self.report.push(Diagnostic::warning(size.span, format!("memory size rounded to {rounded}")));
        }
        Some(rounded)
    }

    /// Bytes in a second.
    pub(super) fn rate(&mut self, size: &Spanned<Scalar>) -> Option<u64> {
        let bytes = match &size.value {
            Scalar::Number(number) => u64::try_from(*number).ok(),
            Scalar::Text(text) => scaled(text).and_then(|bytes| u64::try_from(bytes).ok()),
        };
        let bytes = bytes.filter(|bytes| *bytes > 0);
        if bytes.is_none() {
            let error = Diagnostic::error(size.span, "invalid rate")
                .help("write bytes in a second, or a number with K, M or G: 50M");
            self.report.push(error);
        }
        bytes
    }

    /// A number from `range`; `what` is the error that it isn't.
    pub(super) fn count(&mut self, number: &Number, range: RangeInclusive<u32>, what: &str) -> Option<u32> {
        let count = u32::try_from(number.value).ok().filter(|count| range.contains(count));
        if count.is_none() {
            let message = format!("{what}: {} (must be {}..{})", number.value, range.start(), range.end());
            self.report.push(Diagnostic::error(number.span, message));
        }
        count
    }

    /// `"user"`, `"user:group"`, `":group"`; a name, or a number if nobody has that name.
    pub(super) fn owner(&mut self, owner: &Spanned<Scalar>) -> Option<Owner> {
        let text = match &owner.value {
            Scalar::Number(number) => number.to_string(),
            Scalar::Text(text) => text.clone(),
        };
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text.as_str(), None),
        };
        let host = self.host;
        let uid = match (user, group) {
            ("", Some(_)) => Some(0),
            _ => self.identity(owner.span, "user", user, |name| host.user(name)),
        };
        let gid = group.map(|group| self.identity(owner.span, "group", group, |name| host.group(name)));
        match (uid, gid) {
            (Some(uid), None) => Some(Owner { uid, gid: None }),
            (Some(uid), Some(Some(gid))) => Some(Owner { uid, gid: Some(gid) }),
            _ => None,
        }
    }

    /// Digits alone are a number, whoever is called so.
    fn identity(
        &mut self,
        span: Span,
        what: &str,
        name: &str,
        look_up: impl FnOnce(&str) -> std::io::Result<Option<u32>>,
    ) -> Option<u32> {
        let is_number = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
        let found = if is_number { Ok(name.parse().ok().filter(|id| *id != u32::MAX)) } else { look_up(name) };
        let failed = Diagnostic::error(span, format!("failed to get {what}: {name}"));
        match found {
            Ok(Some(id)) => return Some(id),
            Ok(None) => self.report.push(failed.help(format!(
                "use the name of a {what} in /etc/{}, or a number",
                if what == "user" { "passwd" } else { what }
            ))),
            Err(error) => self.report.push(failed.label(error.to_string())),
        }
        None
    }

    /// The real path of what is at `text`, and what it is. Relative paths start from the folder of the file that they are in.
    pub(super) fn path(&mut self, text: &Text, purpose: Purpose) -> Option<(PathBuf, Examined)> {
        let name = purpose.name();
        let not_found = match purpose {
            Purpose::Disk => format!("failed to parse disks: {}", text.value),
            _ => format!("{name} path not found: {}", text.value),
        };
        if text.value.len() > MAX_PATH_BYTES {
            let shown: String = text.value.chars().take(40).collect();
            let error = Diagnostic::error(text.span, purpose.too_long());
            self.report.push(error.label(format!("{shown}...")).help(format!("use at most {MAX_PATH_BYTES} bytes")));
            return None;
        }
        let path = self.report.sources.folder(text.span.source).join(&text.value);
        let found =
            if text.value.is_empty() { Err(std::io::ErrorKind::NotFound.into()) } else { self.host.resolve(&path) };
        let found = found.and_then(|real| self.host.examine(&real).map(|examined| (real, examined)));
        let (real, examined) = match found {
            Ok(found) => found,
            Err(error) => {
                let looked_at =
                    if text.value.starts_with('/') { String::new() } else { format!(" ({})", path.display()) };
                let is_glued = self.report.sources.slice(text.span).contains(' ') && !text.value.contains(' ');
                let help =
                    is_glued.then(|| "adjacent strings are one; is one of them meant to be a keyword?".to_owned());
                let error = Diagnostic::error(text.span, not_found).label(format!("{error}{looked_at}"));
                self.report.push(Diagnostic { help, ..error });
                return None;
            }
        };
        let fits = match purpose {
            Purpose::Disk => examined.kind != FileKind::Other,
            _ => examined.kind == FileKind::Regular,
        };
        if !fits {
            self.report.push(Diagnostic::error(text.span, format!("{name} is not a regular file: {}", real.display())));
            return None;
        }
        if !real.to_str().is_some_and(is_plain_text) {
            self.report.push(
                Diagnostic::error(text.span, format!("invalid {name} path: {real:?}"))
                    .help("rename it: use UTF-8 text without control characters, that does not end with '\\'"),
            );
            return None;
        }
        Some((real, examined))
    }
}

#[cfg(test)]
mod tests {
    use super::scaled;

    #[test]
    fn scaled_numbers() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("17b", 17),
            ("1K", 1024),
            ("1.5k", 1536),
            (".5M", 512 << 10),
            ("1.M", 1 << 20),
            ("512M", 512 << 20),
            ("2g", 2 << 30),
            ("1T", 1 << 40),
            ("1P", 1 << 50),
            ("1E", 1 << 60),
            ("0.000000000000000001E", 1),
        ] {
            assert_eq!(scaled(text), Some(bytes), "{text}");
        }
        for text in ["", "M", ".", "-1M", "1MB", "1MiB", "0x10", "1 M", "1.2.3", "1,5G", "999999999999999999999"] {
            assert_eq!(scaled(text), None, "{text}");
        }
    }
}
