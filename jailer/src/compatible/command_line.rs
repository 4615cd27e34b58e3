//! The command line: that of Firecracker's jailer, `--private-copy` and `--without`.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::path::{Component, Path, PathBuf};

use lexopt::prelude::*;

use super::arguments::{
    Arguments, CgroupValue, CgroupVersion, DEFAULT_BASE, Image, Processes, ResourceLimits, Session,
};
use crate::plan::{Layer, NamespaceKind};

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// A jail.
    Jail(Box<Arguments>),
    /// The version.
    Version,
    /// The list of options.
    Help,
}

/// What is wrong with the command line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArgumentError {
    /// An unknown option, or an option without its value.
    #[error("{0}; see --help")]
    Syntax(#[from] lexopt::Error),
    /// An option that makes no sense twice.
    #[error("{0} is given more than once; give it once")]
    Repeated(String),
    /// An option that can't be left out.
    #[error("{0} is missing; add it, see --help")]
    Missing(&'static str),
    /// A value that makes no sense.
    #[error("{option} {value:?}: {remedy}")]
    Value {
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What it has to be.
        remedy: &'static str,
    },
}

/// Parses a command line, the program's name left out.
///
/// # Errors
/// If it is not understood.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, ArgumentError> {
    let mut own: Vec<OsString> = arguments.into_iter().collect();
    let end = own.iter().position(|argument| argument == "--").unwrap_or(own.len());
    let vmm = own.split_off(end).into_iter().skip(1).collect();
    let mut parser = lexopt::Parser::from_args(own);
    let mut given: Vec<String> = Vec::new();
    let mut parsed = Parsed::default();
    while let Some(argument) = parser.next()? {
        let option = match argument {
            Long(name) => format!("--{name}"),
            other => return Err(other.unexpected().into()),
        };
        match option.as_str() {
            "--help" => return Ok(Command::Help),
            "--version" => return Ok(Command::Version),
            "--cgroup" | "--resource-limit" | "--without" => {}
            _ if given.contains(&option) => return Err(ArgumentError::Repeated(option)),
            _ => given.push(option.clone()),
        }
        parsed.set(&option, &mut parser)?;
    }
    Ok(Command::Jail(Box::new(parsed.finish(vmm)?)))
}

#[derive(Default)]
struct Parsed {
    id: Option<String>,
    exec_file: Option<PathBuf>,
    image: Image,
    uid: Option<u32>,
    gid: Option<u32>,
    base: Option<PathBuf>,
    network: Option<PathBuf>,
    session: Session,
    processes: Processes,
    cgroup: Vec<CgroupValue>,
    cgroup_version: CgroupVersion,
    parent_cgroup: Option<PathBuf>,
    limits: ResourceLimits,
    without: Vec<Layer>,
    shared_namespaces: Vec<NamespaceKind>,
}

/// What can be given up.
enum Part {
    Layer(Layer),
    Namespace(NamespaceKind),
}

impl Parsed {
    fn set(&mut self, option: &str, parser: &mut lexopt::Parser) -> Result<(), ArgumentError> {
        match option {
            "--id" => self.id = Some(id(&parser.value()?)?),
            "--exec-file" => self.exec_file = Some(parser.value()?.into()),
            "--private-copy" => self.image = Image::PrivateCopy,
            "--uid" => self.uid = Some(user("--uid", &parser.value()?)?),
            "--gid" => self.gid = Some(user("--gid", &parser.value()?)?),
            "--chroot-base-dir" => self.base = Some(parser.value()?.into()),
            "--netns" => self.network = Some(parser.value()?.into()),
            "--daemonize" => self.session = Session::Own,
            "--new-pid-ns" => self.processes = Processes::Own,
            "--cgroup" => self.cgroup.push(cgroup_value(&parser.value()?)?),
            "--cgroup-version" => self.cgroup_version = cgroup_version(&parser.value()?)?,
            "--parent-cgroup" => self.parent_cgroup = Some(parent_cgroup(&parser.value()?)?),
            "--resource-limit" => self.add_limit(&parser.value()?)?,
            "--without" => match part(&parser.value()?)? {
                Part::Layer(layer) => self.without.push(layer),
                Part::Namespace(kind) => self.shared_namespaces.push(kind),
            },
            _ => return Err(lexopt::Error::UnexpectedOption(option.to_owned()).into()),
        }
        Ok(())
    }

    fn add_limit(&mut self, text: &OsStr) -> Result<(), ArgumentError> {
        const REMEDY: &str = "give fsize=BYTES, no-file=N or processes=N";
        let bad = || value("--resource-limit", text.to_string_lossy(), REMEDY);
        let (resource, number) = text.to_str().and_then(|text| text.split_once('=')).ok_or_else(bad)?;
        let number = number.parse().map_err(|_| bad())?;
        match resource {
            "fsize" => self.limits.file_bytes = Some(number),
            "no-file" => self.limits.descriptors = number,
            "processes" => self.limits.processes = number,
            _ => return Err(bad()),
        }
        Ok(())
    }

    fn finish(self, vmm: Vec<OsString>) -> Result<Arguments, ArgumentError> {
        Ok(Arguments {
            id: self.id.ok_or(ArgumentError::Missing("--id"))?,
            exec_file: self.exec_file.ok_or(ArgumentError::Missing("--exec-file"))?,
            image: self.image,
            uid: self.uid.ok_or(ArgumentError::Missing("--uid"))?,
            gid: self.gid.ok_or(ArgumentError::Missing("--gid"))?,
            base: self.base.unwrap_or_else(|| DEFAULT_BASE.into()),
            network: self.network,
            session: self.session,
            processes: self.processes,
            cgroup: self.cgroup,
            cgroup_version: self.cgroup_version,
            parent_cgroup: self.parent_cgroup,
            limits: self.limits,
            without: self.without,
            shared_namespaces: self.shared_namespaces,
            vmm,
        })
    }
}

fn value(option: &'static str, value: impl Display, remedy: &'static str) -> ArgumentError {
    ArgumentError::Value { option, value: value.to_string(), remedy }
}

fn id(text: &OsStr) -> Result<String, ArgumentError> {
    let id = text.to_string_lossy();
    let is_valid = (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    is_valid.then(|| id.to_string()).ok_or_else(|| value("--id", &id, "give 1 to 64 letters, digits and '-'"))
}

/// The highest number means "leave as it is" to the kernel, which is root.
fn user(option: &'static str, text: &OsStr) -> Result<u32, ArgumentError> {
    let number = text.to_str().and_then(|text| text.parse().ok()).filter(|number| *number != u32::MAX);
    number.ok_or_else(|| value(option, text.to_string_lossy(), "give a number from 0 to 4294967294"))
}

fn cgroup_value(text: &OsStr) -> Result<CgroupValue, ArgumentError> {
    const REMEDY: &str = "give CONTROLLER.PROPERTY=VALUE, as cpu.shares=10";
    let bad = || value("--cgroup", text.to_string_lossy(), REMEDY);
    let (file, content) = text.to_str().and_then(|text| text.split_once('=')).ok_or_else(bad)?;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let (controller, property) = file.split_once('.').ok_or_else(bad)?;
    if controller.is_empty() || property.is_empty() || !file.bytes().all(is_name) {
        return Err(bad());
    }
    if content.is_empty() || content.contains('=') {
        return Err(bad());
    }
    Ok(CgroupValue { file: file.to_owned(), value: content.to_owned() })
}

fn cgroup_version(text: &OsStr) -> Result<CgroupVersion, ArgumentError> {
    match text.to_str() {
        Some("1") => Ok(CgroupVersion::V1),
        Some("2") => Ok(CgroupVersion::V2),
        _ => Err(value("--cgroup-version", text.to_string_lossy(), "give 1 or 2")),
    }
}

fn parent_cgroup(text: &OsStr) -> Result<PathBuf, ArgumentError> {
    const REMEDY: &str = "give a path below the root of the control groups, without '.' and '..'";
    // Path::components leaves out a '.' in the middle.
    let has_dot = text.as_encoded_bytes().split(|byte| *byte == b'/').any(|part| part == b".");
    let is_plain = Path::new(text).components().all(|part| matches!(part, Component::Normal(_)));
    let is_valid = is_plain && !has_dot && !text.is_empty();
    is_valid.then(|| text.into()).ok_or_else(|| value("--parent-cgroup", text.to_string_lossy(), REMEDY))
}

fn part(text: &OsStr) -> Result<Part, ArgumentError> {
    const REMEDY: &str = "name a layer: cgroup, namespaces, root, resource-limits, capabilities, uid, landlock or seccomp; or \
                          one namespace: ipc-namespace, uts-namespace or cgroup-namespace";
    const NAMESPACES: [(&str, NamespaceKind); 3] = [
        ("ipc-namespace", NamespaceKind::Ipc),
        ("uts-namespace", NamespaceKind::Uts),
        ("cgroup-namespace", NamespaceKind::Cgroup),
    ];
    let layer = Layer::ALL.into_iter().find(|layer| text == layer.name()).map(Part::Layer);
    let namespace = NAMESPACES.into_iter().find(|(name, _)| text == *name).map(|(_, kind)| Part::Namespace(kind));
    layer.or(namespace).ok_or_else(|| value("--without", text.to_string_lossy(), REMEDY))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compatible::arguments::DEFAULT_PROCESSES;

    const NEEDED: &str = "--id a-1 --exec-file /bin/vmm --uid 7 --gid 8";

    fn arguments(line: &str) -> Result<Arguments, String> {
        match parse(line.split_whitespace().map(OsString::from)) {
            Ok(Command::Jail(arguments)) => Ok(*arguments),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn defaults_are_those_of_firecracker() {
        let arguments = arguments(NEEDED).unwrap();
        assert_eq!((arguments.id.as_str(), arguments.uid, arguments.gid), ("a-1", 7, 8));
        assert_eq!(arguments.base, Path::new("/srv/jailer"));
        assert_eq!(arguments.cgroup_version, CgroupVersion::V1);
        assert_eq!(arguments.limits.descriptors, 2048);
        assert_eq!(arguments.limits.file_bytes, None);
        assert_eq!((arguments.session, arguments.processes), (Session::Inherited, Processes::Host));
        assert_eq!(arguments.image, Image::Original);
        assert_eq!(arguments.vmm, [] as [OsString; 0]);
    }

    #[test]
    fn what_follows_two_dashes_is_the_vmms() {
        let line = format!(
            "{NEEDED} --daemonize --new-pid-ns --netns /n --cgroup cpu.shares=10 --cgroup cpuset.cpus=0-1 --cgroup-version 2 \
             --parent-cgroup a/b --resource-limit fsize=9 --resource-limit no-file=10 --without landlock --without ipc-namespace --chroot-base-dir /j \
             --private-copy \
             -- --id x -- --uid"
        );
        let arguments = arguments(&line).unwrap();
        assert_eq!(arguments.vmm, ["--id", "x", "--", "--uid"]);
        assert_eq!(arguments.cgroup.len(), 2);
        assert_eq!(arguments.cgroup[1].controller(), "cpuset");
        assert_eq!(arguments.cgroup[1].value, "0-1");
        assert_eq!(arguments.parent_cgroup.as_deref(), Some(Path::new("a/b")));
        let limits = ResourceLimits { file_bytes: Some(9), descriptors: 10, processes: DEFAULT_PROCESSES };
        assert_eq!(arguments.limits, limits);
        assert!(!arguments.wants(Layer::Landlock) && arguments.wants(Layer::Seccomp));
        assert_eq!(arguments.shared_namespaces, [NamespaceKind::Ipc]);
        assert!(arguments.wants_namespace(NamespaceKind::Uts) && !arguments.wants_namespace(NamespaceKind::Ipc));
        assert_eq!((arguments.session, arguments.processes), (Session::Own, Processes::Own));
        assert_eq!(arguments.image, Image::PrivateCopy);
    }

    #[test]
    fn mistakes_name_the_flag_the_value_and_the_remedy() {
        for (more, parts) in [
            ("--frobnicate", ["--frobnicate", "see --help"]),
            ("x", ["\"x\"", "see --help"]),
            ("--id b", ["--id", "give it once"]),
            ("--netns", ["--netns", "see --help"]),
            ("--cgroup cpu.shares", ["--cgroup \"cpu.shares\"", "give CONTROLLER.PROPERTY=VALUE"]),
            ("--cgroup cpu.shares=", ["--cgroup \"cpu.shares=\"", "give CONTROLLER"]),
            ("--cgroup cpu.shares=1=2", ["--cgroup \"cpu.shares=1=2\"", "give CONTROLLER"]),
            ("--cgroup ../cpu.shares=1", ["--cgroup \"../cpu.shares=1\"", "give CONTROLLER"]),
            ("--cgroup shares=1", ["--cgroup \"shares=1\"", "give CONTROLLER"]),
            ("--cgroup-version 3", ["--cgroup-version \"3\"", "give 1 or 2"]),
            ("--parent-cgroup /a", ["--parent-cgroup \"/a\"", "without"]),
            ("--parent-cgroup a/../b", ["--parent-cgroup \"a/../b\"", "without"]),
            ("--parent-cgroup a/./b", ["--parent-cgroup \"a/./b\"", "without"]),
            ("--resource-limit fsize=x", ["--resource-limit \"fsize=x\"", "give fsize"]),
            ("--resource-limit stack=1", ["--resource-limit \"stack=1\"", "give fsize"]),
            ("--without walls", ["--without \"walls\"", "name a layer"]),
        ] {
            let message = arguments(&format!("{NEEDED} {more}")).unwrap_err();
            assert!(parts.iter().all(|part| message.contains(part)), "{more}: {message}");
        }
        for (line, part) in [
            ("--id a_b", "--id \"a_b\": give 1 to 64 letters"),
            ("--uid -1", "--uid \"-1\": give a number"),
            ("--uid 4294967295", "--uid \"4294967295\": give a number"),
            ("--gid 4294967296", "--gid \"4294967296\": give a number"),
            ("--id a", "--exec-file is missing; add it"),
        ] {
            let message = arguments(line).unwrap_err();
            assert!(message.contains(part), "{line}: {message}");
        }
        assert!(arguments(&format!("--id {}", "x".repeat(65))).unwrap_err().contains("--id"));
        assert!(parse(["--id".into(), OsString::new()]).unwrap_err().to_string().contains("--id \"\""));
    }
}
