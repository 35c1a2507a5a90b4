//! The builder: a process that lives for one component. It reads one request,
//! confines itself, and only then looks at the component's bytes.
//!
//! Compiling is `skep-engine`'s, what a builder may do is `skep-sys`'s policy;
//! here is the order of things. What the answer is worth is judged by the
//! primary, which verifies the artifact's digest.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use sha2::{Digest as _, Sha256};
use skep_engine::Compiled;
use skep_sys::Channel;
use skep_sys::confine::{BuilderLimits, Confined, Strictness, confine_builder};
use skep_wire::{Decoder, Flavor, FromBuilder, MAX_COMPONENT, Refusal, ToBuilder};

use super::talk;

/// How long the primary may take for the request, and for taking the answer.
/// It sends right after the spawn; longer means that it is gone or stuck.
const PATIENCE: Duration = Duration::from_secs(10);

/// What compiling may use. The slowest guest that we know, `StarlingMonkey`,
/// takes 10 s and 600 MB; the address space counts reservations, of which
/// mimalloc makes gigabytes.
const LIMITS: BuilderLimits = BuilderLimits {
    cpu: Duration::from_secs(300),
    memory: 8 << 30,
    file_size: 1 << 30,
};

/// Bytes of a refusal's text: it may quote names out of the component, and
/// those may be as long as the component.
const MAX_WORDS: usize = 4 << 10;

/// Plays the role to its end.
pub(super) fn run() -> ExitCode {
    talk::play("builder", serve)
}

fn serve() -> anyhow::Result<()> {
    let channel = Channel::inherited().context("this command is for skep itself")?;
    // A title is for people who read process lists.
    let _ = skep_sys::process::set_title("skep builder");
    talk::wait_at_most(&channel, PATIENCE, PATIENCE).context("cannot prepare the channel")?;
    let Some((request, fds)) = talk::receive(&channel, &mut Decoder::default())? else {
        bail!("the primary closed the channel");
    };
    let confined =
        confine_builder(&LIMITS, Strictness::BestEffort).context("cannot confine the builder")?;
    let answer = match request {
        ToBuilder::Fingerprint => match skep_engine::fingerprint() {
            Ok(fingerprint) => FromBuilder::Fingerprint { fingerprint },
            Err(refusal) => refused(refusal),
        },
        ToBuilder::Compile => {
            let [component, artifact] =
                <[OwnedFd; 2]>::try_from(fds).map_err(|_| anyhow::anyhow!("two files expected"))?;
            build(&confined, component.into(), artifact.into())?
        }
    };
    talk::send(&channel, &answer)
}

/// The first to look at bytes that nobody has checked; so it wants the proof.
fn build(_: &Confined, component: File, mut artifact: File) -> anyhow::Result<FromBuilder> {
    let mut bytes = Vec::new();
    component
        .take(MAX_COMPONENT + 1)
        .read_to_end(&mut bytes)
        .context("cannot read the component")?;
    if bytes.len() as u64 > MAX_COMPONENT {
        return Ok(FromBuilder::Refused(Refusal {
            problem: format!("the component is larger than {} MiB", MAX_COMPONENT >> 20),
            hint: Some("strip its debug information, or leave out what it does not use".into()),
        }));
    }
    let compiled = match skep_engine::compile(&bytes) {
        Ok(compiled) => compiled,
        Err(refusal) => return Ok(refused(refusal)),
    };
    artifact
        .write_all(&compiled.artifact)
        .and_then(|()| artifact.sync_all())
        .context("cannot write the artifact")?;
    Ok(built(compiled))
}

fn built(compiled: Compiled) -> FromBuilder {
    FromBuilder::Built {
        flavor: match compiled.flavor {
            skep_engine::Flavor::P2 => Flavor::P2,
            skep_engine::Flavor::P3 => Flavor::P3,
        },
        digest: hex(&Sha256::digest(&compiled.artifact)),
        size: compiled.artifact.len() as u64,
        imports: compiled.imports,
    }
}

fn refused(refusal: skep_engine::Refusal) -> FromBuilder {
    FromBuilder::Refused(Refusal {
        problem: shortened(refusal.problem),
        hint: refusal.hint.map(shortened),
    })
}

fn shortened(mut words: String) -> String {
    if words.len() > MAX_WORDS {
        words.truncate(words.floor_char_boundary(MAX_WORDS));
        words.push('…');
    }
    words
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_out_of_a_component_are_cut_between_characters() {
        let long = "ä".repeat(MAX_WORDS);
        let short = shortened(long);
        assert!(short.len() <= MAX_WORDS + '…'.len_utf8());
        assert!(short.ends_with("ä…"));
        assert_eq!(shortened("a".into()), "a");
    }

    #[test]
    fn digests_are_lower_case_hexadecimal() {
        assert_eq!(hex(&[0, 0xab, 0x0f]), "00ab0f");
    }
}
