//! What callgrind counted, by function and by instruction.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::baseline::Counts;

/// Functions of the allocator that give memory.
const GIVE: [&str; 12] = [
    "mi_malloc",
    "mi_malloc_aligned",
    "mi_zalloc",
    "mi_zalloc_aligned",
    "mi_realloc",
    "mi_realloc_aligned",
    "mi_calloc",
    "mi_calloc_aligned",
    "mi_malloc_small",
    "mi_zalloc_small",
    "mi_new",
    "mi_new_aligned",
];

/// What one process executed.
#[derive(Clone, Debug, Default)]
pub(super) struct Profile {
    /// Instructions.
    pub(super) all: u64,
    /// By function, without what it calls.
    pub(super) functions: BTreeMap<String, u64>,
    /// With the prefix `lock`, or with the same effect.
    pub(super) locked: u64,
    /// Calls of the allocator for memory.
    pub(super) allocations: u64,
}

/// Arguments for valgrind, which writes to `file`.
pub(super) fn command(file: &Path) -> Vec<String> {
    let mut command: Vec<String> = [
        // Ticks come by the wall clock, and would come with each request. Valgrind
        // counts each byte of a repeated instruction, so there is none.
        "env",
        "--block-signal=RTMIN",
        "GLIBC_TUNABLES=glibc.cpu.x86_rep_movsb_threshold=1000000000:\
         glibc.cpu.x86_rep_stosb_threshold=1000000000",
        "valgrind",
        "-q",
        "--tool=callgrind",
        "--vgdb=no",
        "--dump-instr=yes",
        "--compress-pos=no",
        "--compress-strings=no",
    ]
    .map(str::to_owned)
    .to_vec();
    command.push(format!("--callgrind-out-file={}", file.display()));
    command
}

/// Addresses of the locked instructions of a program, from its beginning.
#[derive(Debug)]
pub(super) struct Locked {
    start: u64,
    addresses: BTreeSet<u64>,
}

impl Locked {
    /// Finds them.
    ///
    /// # Errors
    ///
    /// There is no `objdump`, or it does not know the program.
    pub(super) fn of(program: &Path) -> Result<Self> {
        let output = Command::new("objdump")
            .args(["-d", "--no-show-raw-insn", "-M", "intel"])
            .arg(program)
            .output()
            .context("cannot run objdump")?;
        ensure!(output.status.success(), "objdump fails");
        let text = String::from_utf8_lossy(&output.stdout);
        let mut start = None;
        let mut addresses = BTreeSet::new();
        for line in text.lines() {
            if let Some(address) = line.strip_suffix(" <_start>:") {
                start = u64::from_str_radix(address, 16).ok();
            }
            let Some((address, instruction)) = line.trim_start().split_once(":\t") else {
                continue;
            };
            let is_locked = instruction.starts_with("lock ")
                // With memory it locks by itself.
                || instruction.starts_with("xchg ") && instruction.contains('[');
            if is_locked && let Ok(address) = u64::from_str_radix(address, 16) {
                addresses.insert(address);
            }
        }
        Ok(Self {
            start: start.context("the program has no _start")?,
            addresses,
        })
    }
}

impl Profile {
    /// Reads what callgrind wrote.
    ///
    /// # Errors
    ///
    /// It is something else.
    pub(super) fn read(file: &Path, program: &Path, locked: &Locked) -> Result<Self> {
        let text =
            std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let text = String::from_utf8_lossy(&text);
        let program = program.to_string_lossy();
        let mut profile = Self::default();
        let mut ours: BTreeMap<u64, u64> = BTreeMap::new();
        let (mut object, mut function, mut callee) = ("", "", "");
        // The address of the program's first instruction.
        let mut start = None;
        let mut is_call = false;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("ob=") {
                object = name;
            } else if let Some(name) = line.strip_prefix("fn=") {
                function = name;
            } else if let Some(name) = line.strip_prefix("cfn=") {
                callee = name;
            } else if let Some(calls) = line.strip_prefix("calls=") {
                is_call = true;
                let count = calls.split(' ').next().unwrap_or_default();
                if GIVE.contains(&base(callee)) && !base(function).starts_with("mi_") {
                    profile.allocations += count.parse::<u64>()?;
                }
            } else if line.starts_with("0x") {
                let mut fields = line.split(' ');
                let (address, _, cost) = (fields.next(), fields.next(), fields.next());
                // What the callee executed.
                if std::mem::replace(&mut is_call, false) {
                    continue;
                }
                let cost: u64 = cost.context("a cost")?.parse()?;
                let address = address.unwrap_or_default().trim_start_matches("0x");
                let address = u64::from_str_radix(address, 16)?;
                profile.all += cost;
                *profile
                    .functions
                    .entry(base(function).to_owned())
                    .or_default() += cost;
                if object == program {
                    *ours.entry(address).or_default() += cost;
                    if function == "(below main)" {
                        let start = start.get_or_insert(address);
                        *start = address.min(*start);
                    }
                }
            }
        }
        let Some(start) = start else {
            bail!("callgrind saw nothing of {program}");
        };
        let base = start - locked.start;
        let count = |(address, count): (&u64, &u64)| {
            let inside = address.checked_sub(base);
            let is_locked = inside.is_some_and(|inside| locked.addresses.contains(&inside));
            if is_locked { *count } else { 0 }
        };
        profile.locked = ours.iter().map(count).sum();
        Ok(profile)
    }

    /// What this has more than another, divided.
    pub(super) fn minus(&self, less: &Self, times: u32) -> Each {
        let each = |more: u64, less: u64| (more as f64 - less as f64) / f64::from(times);
        let mut functions: Vec<(String, f64)> = self
            .functions
            .iter()
            .map(|(name, cost)| {
                let less = less.functions.get(name).copied().unwrap_or(0);
                (name.clone(), each(*cost, less))
            })
            .collect();
        functions.sort_by(|one, other| other.1.total_cmp(&one.1));
        Each {
            instructions: each(self.all, less.all),
            functions,
            locked: each(self.locked, less.locked),
            allocations: each(self.allocations, less.allocations),
        }
    }
}

/// What one request takes.
#[derive(Clone, Debug)]
pub(super) struct Each {
    pub(super) instructions: f64,
    pub(super) functions: Vec<(String, f64)>,
    pub(super) locked: f64,
    pub(super) allocations: f64,
}

impl Each {
    /// What is compared from one build to the next.
    pub(super) fn counts(&self) -> Counts {
        Counts {
            instructions: self.instructions,
            locked: self.locked,
            allocations: self.allocations,
        }
    }
}

/// A function's name without the number of a recursion.
fn base(name: &str) -> &str {
    match name.rsplit_once('\'') {
        Some((name, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => name,
    }
}
