//! The alerter: a process that tells the webhook what needs a person, so that
//! nothing else of skep waits for somebody's server or speaks TLS to it.
//!
//! It listens to the primary on its main thread and delivers on another, in
//! order. Before that it gives up all but the calls to this one server, and the
//! means to look up its name. When the primary hangs up it ends at once, whatever it was doing: what
//! was not delivered is in the log, and no orphan is left.

mod webhook;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use anyhow::{Context as _, bail};
use skep_sys::confine::{Strictness, confine_alerter};
use skep_sys::{Channel, process};
use skep_wire::{Decoder, FromAlerter, ToAlerter};

use self::webhook::Webhook;
use super::talk;

/// How long the primary may be silent: longer than one delivery with all its
/// attempts, after which it says something or hangs up.
const PATIENCE: Duration = Duration::from_secs(600);

/// How long the primary may take to take an answer; longer means that it is
/// stuck.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// An alert to be delivered.
struct Alert {
    id: u64,
    event: String,
}

/// Plays the role to its end.
pub(super) fn run() -> ExitCode {
    talk::play("alerter", serve)
}

fn serve() -> anyhow::Result<()> {
    let channel = Channel::inherited().context("this command is for skep itself")?;
    // A title is for people who read process lists.
    let _ = process::set_title("skep alerter");
    talk::wait_at_most(&channel, PATIENCE, ANSWER_PATIENCE)
        .context("cannot prepare the channel")?;
    listen(&Arc::new(channel), |webhook| {
        // What the kernel lacks is told by who serves tenants.
        confine_alerter(webhook.port(), Strictness::BestEffort)
            .context("cannot confine the alerter")
            .map(drop)
    })
}

/// Passes alerts on until the primary hangs up. `confine` gives up what is not
/// needed for the webhook, once that is known and before anybody is called.
fn listen(
    channel: &Arc<Channel>,
    confine: impl FnOnce(&Webhook) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut decoder = Decoder::default();
    let Some((first, _)) = talk::receive(channel, &mut decoder)? else {
        return Ok(());
    };
    let ToAlerter::Begin { webhook } = first else {
        bail!("the primary began with an alert");
    };
    let webhook = Webhook::new(&webhook)?;
    confine(&webhook)?;
    // Unbounded: the primary bounds what it says before it is answered.
    let (alerts, waiting) = mpsc::channel();
    // Never joined: this process ends with its main thread.
    std::thread::Builder::new()
        .name("deliver".to_owned())
        .spawn({
            let channel = channel.clone();
            move || deliver_all(&webhook, &waiting, &channel)
        })
        .context("cannot start a thread")?;
    while let Some((message, _)) = talk::receive(channel, &mut decoder)? {
        let ToAlerter::Alert { id, event } = message else {
            bail!("the primary began twice");
        };
        if alerts.send(Alert { id, event }).is_err() {
            bail!("the primary does not take an answer");
        }
    }
    Ok(())
}

/// Delivers alerts in order until nobody wants to know.
fn deliver_all(webhook: &Webhook, waiting: &Receiver<Alert>, channel: &Channel) {
    // A channel that says nothing: a wait that only time ends.
    let (_silent, never) = mpsc::channel::<()>();
    let pause = |length| {
        let _ = never.recv_timeout(length);
    };
    for Alert { id, event } in waiting {
        let answer = match webhook.deliver(&event, chance, pause) {
            Ok(attempts) => FromAlerter::Delivered { id, attempts },
            Err(reason) => FromAlerter::GaveUp { id, reason },
        };
        if talk::send(channel, &answer).is_err() {
            return;
        }
    }
}

/// A number from 0 to 1, from the seed that every hash map gets.
fn chance() -> f64 {
    let number = RandomState::new().hash_one(()) >> 32;
    f64::from(u32::try_from(number).expect("half of 64 bits")) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances_are_between_none_and_all() {
        let chances: Vec<f64> = (0..100).map(|_| chance()).collect();
        assert!(chances.iter().all(|chance| (0.0..=1.0).contains(chance)));
        assert!(chances.iter().any(|chance| *chance != chances[0]));
    }

    /// A primary that says `messages`, hears one answer for each alert, and
    /// hangs up; returns the answers and how the alerter ended.
    fn conversation(messages: &[ToAlerter]) -> (Vec<FromAlerter>, anyhow::Result<()>) {
        let (ours, theirs) = Channel::pair().unwrap();
        let theirs = Channel::from_fd(theirs).unwrap();
        talk::wait_at_most(&ours, PATIENCE, ANSWER_PATIENCE).unwrap();
        talk::wait_at_most(&theirs, PATIENCE, ANSWER_PATIENCE).unwrap();
        let alerter = std::thread::spawn(move || listen(&Arc::new(theirs), |_| Ok(())));
        for message in messages {
            let frame = skep_wire::encode(message).unwrap();
            assert_eq!(ours.send(&frame, &[]).unwrap(), frame.len());
        }
        let mut decoder = Decoder::<()>::default();
        let mut answers = Vec::new();
        let expected = messages
            .iter()
            .filter(|message| matches!(message, ToAlerter::Alert { .. }))
            .count();
        let mut piece = [0; 4096];
        while answers.len() < expected {
            match decoder.message().unwrap() {
                Some((answer, _)) => answers.push(answer),
                None => match ours.recv(&mut piece, &mut Vec::new()).unwrap() {
                    0 => break,
                    count => decoder.push(&piece[..count], []),
                },
            }
        }
        drop(ours);
        (answers, alerter.join().unwrap())
    }

    fn begin(webhook: String) -> ToAlerter {
        ToAlerter::Begin { webhook }
    }

    fn alert(id: u64) -> ToAlerter {
        let event = format!("{{\"id\":{id}}}");
        ToAlerter::Alert { id, event }
    }

    #[test]
    fn alerts_are_delivered_in_order_and_answered() {
        let server = webhook::tests::Server::start(vec![204, 404, 200]);
        let (answers, ended) = conversation(&[begin(server.url()), alert(4), alert(5), alert(6)]);
        ended.unwrap();
        let [first, second, third] = answers.try_into().unwrap();
        assert_eq!(first, FromAlerter::Delivered { id: 4, attempts: 1 });
        assert!(matches!(second, FromAlerter::GaveUp { id: 5, .. }));
        assert_eq!(third, FromAlerter::Delivered { id: 6, attempts: 1 });
        assert_eq!(server.bodies(), ["{\"id\":4}", "{\"id\":5}", "{\"id\":6}"]);
    }

    #[test]
    fn a_primary_that_makes_no_sense_or_hangs_up_ends_it() {
        assert!(conversation(&[]).1.is_ok());
        assert!(conversation(&[begin("ftp://x/".into())]).1.is_err());
        let url = || "http://127.0.0.1:1/".to_owned();
        assert!(conversation(&[begin(url())]).1.is_ok());
        assert!(conversation(&[begin(url()), begin(url())]).1.is_err());
    }
}
