//! Landlock: what of the file system, the network and other processes a process of the jail may still reach.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};

/// The newest ABI whose rights are named here; an older kernel enforces those that it knows.
const NEWEST: ABI = ABI::V6;

/// Gives up the whole file system but one program, every TCP port, and signals and abstract sockets out of the jail. Returns what
/// is in force.
///
/// execveat(2) opens `program` anew, which takes the rights to execute and to read that one file, and it is a rule on the file
/// itself, whatever its name: Landlock looks at the descriptor's inode before it looks at the folders above.
///
/// # Errors
/// The kernel has no Landlock, or it is not turned on.
pub fn all_but_program(program: &impl AsFd) -> io::Result<String> {
    let scoped = handled()?.scope(Scope::from_all(NEWEST)).map_err(io::Error::other)?;
    let rule = PathBeneath::new(program.as_fd(), AccessFs::Execute | AccessFs::ReadFile);
    let created = scoped.create().and_then(|created| created.add_rule(rule)).map_err(io::Error::other)?;
    let abi = enforce(created)?;
    Ok(format!("{abi}: no file but the vmm's program, no TCP port, no signal or abstract socket out of the jail"))
}

/// Gives up everything but removing `folders` and the files in them, all of which are open by now.
/// Signals stay allowed, because the warden has to end its vmm.
///
/// # Errors
/// As [`all_but_program`].
pub fn all_but_folders(folders: &[&Path]) -> io::Result<String> {
    let mut created =
        handled()?.scope(Scope::AbstractUnixSocket).and_then(Ruleset::create).map_err(io::Error::other)?;
    // Removing a folder takes a right to its parent. Whose folders there can be removed is up to its sticky bit.
    let parents = folders.iter().filter_map(|folder| folder.parent()).map(|parent| (parent, AccessFs::RemoveDir));
    let rules = parents.chain(folders.iter().map(|folder| (*folder, AccessFs::RemoveFile)));
    for (path, rights) in rules {
        let folder = PathFd::new(path).map_err(io::Error::other)?;
        created = created.add_rule(PathBeneath::new(folder, rights)).map_err(io::Error::other)?;
    }
    enforce(created)
}

fn handled() -> io::Result<Ruleset> {
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
    let ruleset = ruleset.handle_access(AccessFs::from_all(NEWEST)).map_err(io::Error::other)?;
    ruleset.handle_access(AccessNet::from_all(NEWEST)).map_err(io::Error::other)
}

fn enforce(ruleset: RulesetCreated) -> io::Result<String> {
    let status = ruleset.restrict_self().map_err(io::Error::other)?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, _) => Err(io::Error::other("the kernel has no Landlock, or lsm= leaves it out")),
        (_, LandlockStatus::Available { effective_abi, .. }) => Ok(format!("Landlock ABI {}", effective_abi as i32)),
        _ => Ok("Landlock".to_owned()),
    }
}
