use std::io::Write;

use tokio::sync::mpsc;

use super::*;

/// More than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

const QUICK: Pace = Pace {
    idle: PATIENCE,
    busy: PATIENCE,
    pause: Duration::from_millis(1),
    longest_pause: Duration::from_millis(4),
    end: Duration::from_millis(50),
};

/// Starts alerters that the test plays itself.
struct Stage(mpsc::UnboundedSender<Played>);

/// The alerter's side.
struct Played {
    channel: ChannelEnd,
    /// Closed once the primary is done with this alerter.
    alive: mpsc::Receiver<()>,
}

impl Start for Stage {
    type Life = mpsc::Sender<()>;

    fn start(&mut self) -> io::Result<(ChannelEnd, mpsc::Sender<()>)> {
        let (ours, theirs) = Channel::pair()?;
        let (life, alive) = mpsc::channel(1);
        let channel = ChannelEnd::new(Channel::from_fd(theirs)?)?;
        let played = Played { channel, alive };
        match self.0.send(played) {
            Ok(()) => Ok((ChannelEnd::new(ours)?, life)),
            Err(_) => Err(io::ErrorKind::OutOfMemory.into()),
        }
    }
}

impl Played {
    async fn hears(&mut self) -> Option<ToAlerter> {
        timeout(PATIENCE, self.channel.next())
            .await
            .unwrap()
            .unwrap()
    }

    async fn hears_begin(&mut self) -> String {
        match self.hears().await {
            Some(ToAlerter::Begin { webhook }) => webhook,
            other => panic!("{other:?}"),
        }
    }

    async fn hears_alert(&mut self) -> (u64, String) {
        match self.hears().await {
            Some(ToAlerter::Alert { id, event }) => (id, event),
            other => panic!("{other:?}"),
        }
    }

    /// What is said goes out with the next wait.
    fn delivered(&mut self, id: u64) {
        let answer = FromAlerter::Delivered { id, attempts: 1 };
        self.channel.say(&answer, Vec::new()).unwrap();
    }

    async fn is_ended(&mut self) {
        assert_eq!(timeout(PATIENCE, self.alive.recv()).await.unwrap(), None);
    }
}

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        locked(&self.0).extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Play {
    alerts: Alerts,
    stage: mpsc::UnboundedReceiver<Played>,
    sink: Sink,
    writer: crate::log::Writer,
}

fn spec(webhook: &str) -> Option<AlertSpec> {
    let webhook = webhook.to_owned();
    Some(AlertSpec { webhook })
}

fn play(pace: Pace) -> Play {
    let (entrance, stage) = mpsc::unbounded_channel();
    let sink = Sink::default();
    let log = skep_core::LogSpec {
        format: skep_core::LogFormat::Text,
        level: LogLevel::Debug,
    };
    let (log, writer) = Log::start(log, sink.clone()).unwrap();
    let alerts = Alerts::with(Stage(entrance), pace, spec("http://hook/"), log);
    Play {
        alerts,
        stage,
        sink,
        writer,
    }
}

impl Play {
    fn raise(&self, subject: &str) {
        let event = format!("{{\"app\":\"{subject}\"}}");
        self.alerts.raise("app.rolled_back", subject, &event);
    }

    async fn alerter(&mut self) -> Played {
        let started = timeout(PATIENCE, self.stage.recv()).await;
        let mut played = started.unwrap().unwrap();
        played.hears_begin().await;
        played
    }

    /// Ends it and returns the log.
    async fn end(self) -> String {
        timeout(PATIENCE, self.alerts.finish()).await.unwrap();
        self.writer.finish();
        String::from_utf8(locked(&self.sink.0).clone()).unwrap()
    }
}

#[tokio::test]
async fn alerts_are_told_one_by_one_and_the_alerter_ends_with_the_primary() {
    let mut play = play(QUICK);
    play.raise("a");
    play.raise("b");
    play.raise("a");
    let mut alerter = play.alerter().await;
    assert_eq!(alerter.hears_alert().await, (1, "{\"app\":\"a\"}".into()));
    alerter.delivered(1);
    assert_eq!(alerter.hears_alert().await, (2, "{\"app\":\"b\"}".into()));
    let gave_up = FromAlerter::GaveUp {
        id: 2,
        reason: "it answers 404".into(),
    };
    alerter.channel.say(&gave_up, Vec::new()).unwrap();
    let end = tokio::spawn(play.end());
    assert_eq!(alerter.hears().await, None);
    alerter.is_ended().await;
    let log = timeout(PATIENCE, end).await.unwrap().unwrap();
    assert!(
        log.contains("alert.delivered alert=app.rolled_back attempts=1"),
        "{log}"
    );
    assert!(
        log.contains("alert.undelivered alert=app.rolled_back reason=\"it answers 404\""),
        "{log}"
    );
}

#[tokio::test]
async fn an_alert_that_kills_alerters_is_given_up_after_three_more() {
    let mut play = play(QUICK);
    play.raise("deadly");
    play.raise("b");
    for _ in 0..4 {
        let mut alerter = play.alerter().await;
        assert_eq!(alerter.hears_alert().await.0, 1);
        // It ends, and with it its channel.
    }
    let mut alerter = play.alerter().await;
    assert_eq!(alerter.hears_alert().await.0, 2);
    alerter.delivered(2);
    let end = tokio::spawn(play.end());
    assert_eq!(alerter.hears().await, None);
    let log = timeout(PATIENCE, end).await.unwrap().unwrap();
    assert_eq!(log.matches("alerter.exited").count(), 4, "{log}");
    assert_eq!(log.matches("alert.undelivered").count(), 1, "{log}");
    assert_eq!(log.matches("alert.delivered").count(), 1, "{log}");
}

#[tokio::test]
async fn alerters_that_cannot_be_started_are_no_endless_loop() {
    let mut play = play(QUICK);
    play.stage.close();
    play.raise("a");
    play.raise("b");
    let sink = play.sink.clone();
    let said = async {
        while String::from_utf8_lossy(&locked(&sink.0))
            .matches("alert.undelivered")
            .count()
            < 2
        {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, said).await.unwrap();
    let log = play.end().await;
    assert_eq!(log.matches("cannot be started").count(), 8 + 2, "{log}");
}

#[tokio::test]
async fn one_that_is_silent_or_speaks_of_something_else_is_replaced() {
    let busy = Duration::from_millis(20);
    let mut play = play(Pace { busy, ..QUICK });
    play.raise("a");
    let mut silent = play.alerter().await;
    silent.hears_alert().await;
    silent.is_ended().await;
    let mut confused = play.alerter().await;
    confused.hears_alert().await;
    confused.delivered(77);
    assert_eq!(confused.hears().await, None);
    let mut good = play.alerter().await;
    assert_eq!(good.hears_alert().await.0, 1);
    good.delivered(1);
    let end = tokio::spawn(play.end());
    assert_eq!(good.hears().await, None);
    let log = timeout(PATIENCE, end).await.unwrap().unwrap();
    assert!(log.contains("did not answer in time"), "{log}");
    assert!(log.contains("answered for another alert"), "{log}");
    assert!(log.contains("alert.delivered"), "{log}");
}

#[tokio::test]
async fn one_with_nothing_to_do_goes_and_another_comes() {
    let idle = Duration::from_millis(10);
    let mut play = play(Pace { idle, ..QUICK });
    for (id, subject) in [(1, "a"), (2, "b")] {
        play.raise(subject);
        let mut alerter = play.alerter().await;
        assert_eq!(alerter.hears_alert().await.0, id);
        alerter.delivered(id);
        assert_eq!(alerter.hears().await, None);
        alerter.is_ended().await;
    }
    let log = play.end().await;
    assert!(!log.contains("warn"), "{log}");
}

#[tokio::test]
async fn a_webhook_that_never_answers_delays_the_end_by_its_deadline_at_most() {
    let mut play = play(QUICK);
    play.raise("a");
    let mut alerter = play.alerter().await;
    alerter.hears_alert().await;
    let begun = Instant::now();
    let log = play.end().await;
    assert!(begun.elapsed() >= QUICK.end);
    alerter.is_ended().await;
    assert!(log.contains("reason=\"skep ended\""), "{log}");
}

#[tokio::test]
async fn another_webhook_gets_what_waits_and_none_gets_nothing() {
    let mut play = play(QUICK);
    play.raise("a");
    let mut old = play.alerter().await;
    old.hears_alert().await;
    play.alerts.reconfigure(spec("http://other/"));
    old.is_ended().await;
    let started = timeout(PATIENCE, play.stage.recv()).await;
    let mut new = started.unwrap().unwrap();
    assert_eq!(new.hears_begin().await, "http://other/");
    assert_eq!(new.hears_alert().await.0, 1);
    play.alerts.reconfigure(None);
    new.is_ended().await;
    play.raise("b");
    let log = play.end().await;
    assert_eq!(log.matches("alert.undelivered").count(), 1, "{log}");
    assert!(log.contains("no webhook is configured any more"), "{log}");
}

#[tokio::test]
async fn what_is_too_much_is_dropped_and_told() {
    let play = play(QUICK);
    for number in 0..70 {
        play.raise(&number.to_string());
    }
    let log = play.end().await;
    assert_eq!(log.matches("alert.dropped").count(), 6, "{log}");
}
