//! Compiles the promises of each role into one filter, and describes them for the documentation.
//!
//! Reads `roles.json` (role to promises), `promises/*.json` (rules in seccompiler's JSON format, each with the reason as its
//! comment) and, for the documentation, `unused.json` (rules that no test uses). Writes `filters.rs` and `rules.rs`, a
//! constant for each role, and `roles.md`.

mod compile;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write;
use std::path::Path;
use std::{env, fs};

use seccompiler::{TargetArch, sock_filter};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Promise {
    promise: String,
    meaning: String,
    filter: Vec<Rule>,
}

#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    syscall: String,
    comment: String,
    #[serde(default)]
    args: Vec<Condition>,
}

/// In seccompiler's format.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    index: u8,
    #[serde(rename = "type")]
    width: Width,
    op: Operator,
    val: u64,
    comment: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Width {
    Dword,
    Qword,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Operator {
    Eq,
    Le,
    MaskedEq(u64),
}

/// What tools/minimality accepts.
#[derive(Deserialize)]
struct Unused {
    unused: Vec<UnusedRule>,
    by_chance: Vec<UnusedRule>,
    others: Vec<UnusedRule>,
    variants: Vec<Variant>,
}

/// A role that adds to another.
#[derive(Deserialize)]
struct Variant {
    role: String,
    of: String,
    reason: String,
}

#[derive(Deserialize)]
struct UnusedRule {
    rule: String,
    roles: Vec<String>,
    reason: String,
}

/// A rule, and the promise that it is of.
struct Promised<'a> {
    promise: &'a str,
    rule: &'a Rule,
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build");
    println!("cargo:rerun-if-changed=roles.json");
    println!("cargo:rerun-if-changed=promises");
    println!("cargo:rerun-if-changed=unused.json");
    let architecture = TargetArch::try_from(env::var("CARGO_CFG_TARGET_ARCH")?.as_str())?;
    let promises = read_promises()?;
    let roles: BTreeMap<String, Vec<String>> = serde_json::from_slice(&fs::read("roles.json")?)?;
    let used: BTreeSet<_> = roles.values().flatten().collect();
    if let Some(unused) = promises.keys().find(|name| !used.contains(name)) {
        return Err(format!("no role makes the promise {unused:?}").into());
    }

    let mut source = String::new();
    let mut rules_source = String::new();
    let mut table = String::from("| role | promises | rules | system calls |\n|---|---|---|---|\n");
    for (role, names) in &roles {
        let rules = merge(role, names, &promises)?;
        let own: Vec<_> = rules.iter().map(|promised| promised.rule).collect();
        let program = compile::compile(&own, architecture).map_err(|error| format!("role {role:?}: {error}"))?;
        write_filter(&mut source, role, &program)?;
        write_rules(&mut rules_source, role, &rules)?;
        let calls: BTreeSet<_> = rules.iter().map(|promised| promised.rule.syscall.as_str()).collect();
        let list = calls.iter().copied().collect::<Vec<_>>().join(" ");
        writeln!(table, "| `{role}` | {} | {} | {}: {list} |", names.join(" "), rules.len(), calls.len())?;
    }
    table.push_str("\n| promise | meaning |\n|---|---|\n");
    for (name, promise) in &promises {
        writeln!(table, "| `{name}` | {} |", promise.meaning)?;
    }
    write_unused(&mut table, &serde_json::from_slice(&fs::read("unused.json")?)?)?;
    let out = env::var("OUT_DIR")?;
    fs::write(Path::new(&out).join("filters.rs"), source)?;
    fs::write(Path::new(&out).join("rules.rs"), rules_source)?;
    fs::write(Path::new(&out).join("roles.md"), table)?;
    Ok(())
}

fn read_promises() -> Result<BTreeMap<String, Promise>, Box<dyn Error>> {
    let mut promises = BTreeMap::new();
    for entry in fs::read_dir("promises")? {
        let path = entry?.path();
        let invalid = |what: &str| format!("{}: {what}", path.display());
        let promise: Promise =
            serde_json::from_slice(&fs::read(&path)?).map_err(|error| invalid(&error.to_string()))?;
        if path.file_stem() != Some(promise.promise.as_ref()) {
            return Err(invalid("the file has another name than the promise").into());
        }
        if let Some(rule) = promise.filter.iter().find(|rule| rule.comment.is_empty()) {
            return Err(invalid(&format!("{} has no reason", rule.syscall)).into());
        }
        promises.insert(promise.promise.clone(), promise);
    }
    Ok(promises)
}

/// All rules of a role, each once.
fn merge<'a>(
    role: &str,
    names: &'a [String],
    promises: &'a BTreeMap<String, Promise>,
) -> Result<Vec<Promised<'a>>, Box<dyn Error>> {
    let mut rules: Vec<Promised<'_>> = Vec::new();
    for name in names {
        let promise = promises.get(name).ok_or_else(|| format!("role {role:?}: there is no promise {name:?}"))?;
        for rule in &promise.filter {
            let same = || rules.iter().map(|other| other.rule).filter(|other| other.syscall == rule.syscall);
            if same().any(|other| other.args.is_empty() != rule.args.is_empty()) {
                return Err(format!("role {role:?}: {} is constrained in one promise only", rule.syscall).into());
            }
            if !same().any(|other| other.args == rule.args) {
                rules.push(Promised { promise: name, rule });
            }
        }
    }
    Ok(rules)
}

fn constant(role: &str) -> String {
    role.to_uppercase().replace('-', "_")
}

fn write_filter(source: &mut String, role: &str, program: &[sock_filter]) -> Result<(), std::fmt::Error> {
    writeln!(source, "pub(crate) const {}: &[sock_filter] = &[", constant(role))?;
    for sock_filter { code, jt, jf, k } in program {
        writeln!(source, "    sock_filter {{ code: {code}, jt: {jt}, jf: {jf}, k: {k} }},")?;
    }
    writeln!(source, "];")
}

/// As text, whose form `src/rules.rs` describes.
fn write_rules(source: &mut String, role: &str, rules: &[Promised<'_>]) -> Result<(), Box<dyn Error>> {
    let mut text = String::new();
    for Promised { promise, rule: Rule { syscall, comment, args } } in rules {
        let mut words = vec![(*promise).to_owned(), syscall.clone(), comment.clone()];
        for Condition { index, width, op, val, comment } in args {
            let operator = match op {
                Operator::Eq => "eq".to_owned(),
                Operator::Le => "le".to_owned(),
                Operator::MaskedEq(mask) => mask.to_string(),
            };
            let width = format!("{width:?}").to_lowercase();
            words.extend([index.to_string(), width, operator, val.to_string(), comment.clone()]);
        }
        if words.iter().any(|word| word.contains(['\t', '\n'])) {
            return Err(format!("role {role:?}: a tab or a new line in {words:?}").into());
        }
        text.push_str(&words.join("\t"));
        text.push('\n');
    }
    Ok(writeln!(source, "pub(super) const {}: &str = {text:?};", constant(role))?)
}

fn write_unused(
    table: &mut String,
    Unused { unused, by_chance, others, variants }: &Unused,
) -> Result<(), std::fmt::Error> {
    table.push_str(
        "\n| rule that no test uses, not each time, or not for sure | roles | why it is needed |\n|---|---|---|\n",
    );
    for UnusedRule { rule, roles, reason } in unused.iter().chain(by_chance).chain(others) {
        writeln!(table, "| `{}` | {} | {reason} |", rule.replace('|', "\\|"), roles.join(" "))?;
    }
    for Variant { role, of, reason } in variants {
        writeln!(table, "| what `{of}` has, too | {role} | {reason} |")?;
    }
    Ok(())
}
