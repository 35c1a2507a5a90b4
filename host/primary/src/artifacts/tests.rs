//! The cache with a builder that does nothing but write.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use skep_core::{
    AppLimits, AppSpec, Dispatch, Generation, InstancePolicy, LogFormat, LogSpec, PoolName,
    PoolSpec, RolloutSpec, Sandbox, ServerSpec, SupervisionSettings, TenantName,
};
use skep_wire::Flavor;
use tempfile::TempDir;
use tokio::sync::Barrier;

use super::cache::Built;
use super::*;

/// Makes an artifact of "compiled " and the component; refuses what begins
/// with "bad".
#[derive(Clone, Default)]
struct Scribe {
    builds: Arc<AtomicUsize>,
    at_once: Arc<AtomicUsize>,
    most_at_once: Arc<AtomicUsize>,
    /// Where builds wait for each other, if they do.
    meet: Option<Arc<Barrier>>,
    lies: bool,
}

impl Build for Scribe {
    async fn fingerprint(&self) -> Result<String, Refusal> {
        Ok("0a1b".to_owned())
    }

    async fn compile(&self, component: OwnedFd, artifact: OwnedFd) -> Result<Built, Refusal> {
        self.builds.fetch_add(1, SeqCst);
        self.most_at_once
            .fetch_max(self.at_once.fetch_add(1, SeqCst) + 1, SeqCst);
        if let Some(meet) = &self.meet {
            timeout(Duration::from_secs(20), meet.wait()).await.unwrap();
        }
        let mut text = String::from("compiled ");
        File::from(component).read_to_string(&mut text).unwrap();
        self.at_once.fetch_sub(1, SeqCst);
        if text.contains("bad") {
            return Err(Refusal {
                problem: "it is bad".to_owned(),
                hint: None,
            });
        }
        File::from(artifact).write_all(text.as_bytes()).unwrap();
        let of = if self.lies {
            "something else"
        } else {
            text.as_str()
        };
        let (digest, size) = Digest::of(&mut of.as_bytes(), 1 << 20).unwrap();
        Ok(Built {
            flavor: Flavor::P2,
            imports: vec!["wasi:http/types@0.2.0".to_owned()],
            digest: digest.to_string(),
            size,
        })
    }
}

struct House {
    dir: TempDir,
    scribe: Scribe,
}

async fn prepare(scribe: Scribe, spec: &FleetSpec) -> Result<Artifacts, ArtifactsError> {
    let works = Works::with(
        scribe,
        Cache::open(&spec.server.state_dir).unwrap(),
        &Log::discard(),
    )
    .await?;
    works.make_all(&components_of(spec)).await.all()
}

impl House {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            scribe: Scribe::default(),
        }
    }

    /// A specification of apps named `app-0`, `app-1`, … of these contents.
    fn spec(&self, components: &[&str]) -> FleetSpec {
        let pool = PoolName::new("default").unwrap();
        let apps = components.iter().enumerate().map(|(index, content)| {
            let component = self.dir.path().join(format!("{index}.wasm"));
            fs::write(&component, content).unwrap();
            let app = AppSpec {
                component,
                tenant: TenantName::new("default").unwrap(),
                pool: pool.clone(),
                routes: Vec::new(),
                strip_prefix: false,
                limits: AppLimits::default(),
                instance: InstancePolicy::default(),
                env: Vec::new(),
                require: Vec::new(),
                config: BTreeMap::new(),
                validate: None,
                rollout: RolloutSpec::default(),
                outbound: Vec::new(),
            };
            (AppName::new(&format!("app-{index}")).unwrap(), app)
        });
        FleetSpec {
            generation: Generation(1),
            server: ServerSpec {
                state_dir: self.dir.path().join("state"),
                log: LogSpec {
                    format: LogFormat::Text,
                    level: LogLevel::Info,
                },
                alert: None,
                sandbox: Sandbox::default(),
            },
            listeners: BTreeMap::new(),
            tenants: BTreeMap::new(),
            apps: apps.collect(),
            pools: BTreeMap::from([(
                pool,
                PoolSpec {
                    workers: 1,
                    dispatch: Dispatch::Balanced,
                    supervision: SupervisionSettings::default(),
                    user: None,
                },
            )]),
        }
    }

    async fn prepare(&self, components: &[&str]) -> Result<Artifacts, ArtifactsError> {
        let spec = self.spec(components);
        prepare(self.scribe.clone(), &spec).await
    }

    async fn one(&self, component: &str) -> Arc<Artifact> {
        let artifacts = self.prepare(&[component]).await.unwrap();
        artifacts.into_values().next().unwrap()
    }

    fn builds(&self) -> usize {
        self.scribe.builds.load(SeqCst)
    }

    fn entry(&self, extension: &str) -> PathBuf {
        let dir = self.dir.path().join("state/artifacts");
        let mut entries = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        entries
            .find(|path| path.to_string_lossy().ends_with(extension))
            .unwrap()
    }
}

fn content(artifact: &Artifact) -> String {
    // As a worker opens it.
    let path = format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&artifact.file())
    );
    fs::read_to_string(path).unwrap()
}

#[tokio::test]
async fn each_component_is_compiled_once_and_then_found() {
    let house = House::new();
    let artifacts = house.prepare(&["one", "two", "one", "one"]).await.unwrap();
    assert_eq!(house.builds(), 2);
    let contents: Vec<_> = artifacts
        .values()
        .map(|artifact| content(artifact))
        .collect();
    assert_eq!(
        contents,
        [
            "compiled one",
            "compiled two",
            "compiled one",
            "compiled one"
        ]
    );

    let again = house.prepare(&["two", "one"]).await.unwrap();
    assert_eq!(house.builds(), 2);
    let app = AppName::new("app-0").unwrap();
    assert_eq!(content(&again[&app]), "compiled two");
    assert_eq!(again[&app].flavor, Flavor::P2);

    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&house.entry(".cwasm")), 0o444);
    assert_eq!(mode(&house.dir.path().join("state/artifacts")), 0o700);
}

#[tokio::test]
async fn two_builders_run_at_once_and_no_more() {
    let mut house = House::new();
    house.scribe.meet = Some(Arc::new(Barrier::new(BUILDERS)));
    house
        .prepare(&["1", "2", "3", "4", "5", "6"])
        .await
        .unwrap();
    assert_eq!(house.builds(), 6);
    assert_eq!(house.scribe.most_at_once.load(SeqCst), BUILDERS);
}

#[tokio::test]
async fn whatever_is_not_as_it_was_stored_is_rebuilt() {
    let damage: [fn(&House); 7] = [
        // Torn.
        |house| fs::remove_file(house.entry(".json")).unwrap(),
        |house| fs::remove_file(house.entry(".cwasm")).unwrap(),
        |house| fs::write(house.entry(".json"), "{\"version\":1,\"comp").unwrap(),
        |house| rewrite(&house.entry(".cwasm"), "compiled"),
        // Tampered with, at the same size.
        |house| rewrite(&house.entry(".cwasm"), "compiled onf"),
        // Another version's, or another component's.
        |house| edit(&house.entry(".json"), "\"version\":1", "\"version\":2"),
        |house| {
            edit(
                &house.entry(".json"),
                "\"component\":\"",
                "\"component\":\"0",
            );
        },
    ];
    let house = House::new();
    house.one("one").await;
    for (index, damage) in damage.into_iter().enumerate() {
        assert_eq!(house.builds(), index + 1);
        damage(&house);
        assert_eq!(content(&*house.one("one").await), "compiled one");
        house.one("one").await;
        assert_eq!(house.builds(), index + 2, "damage {index}");
    }
}

fn rewrite(path: &Path, content: &str) {
    fs::remove_file(path).unwrap();
    fs::write(path, content).unwrap();
}

fn edit(path: &Path, from: &str, to: &str) {
    let content = fs::read_to_string(path).unwrap();
    assert!(content.contains(from));
    fs::write(path, content.replace(from, to)).unwrap();
}

#[tokio::test]
async fn an_open_artifact_outlives_its_entry() {
    let house = House::new();
    let artifact = house.one("one").await;
    rewrite(&house.entry(".cwasm"), "something else");
    assert_eq!(content(&artifact), "compiled one");
}

#[tokio::test]
async fn every_refusal_is_told_at_once_and_none_is_cached() {
    let house = House::new();
    for builds in 1..=2 {
        let mut spec = house.spec(&["good", "bad", "gone"]);
        fs::remove_file(house.dir.path().join("2.wasm")).unwrap();
        spec.server.log.level = LogLevel::Error;
        let prepared = prepare(house.scribe.clone(), &spec).await;
        let Err(ArtifactsError::Refused(refused)) = prepared else {
            panic!("{prepared:?}");
        };
        let problems: Vec<_> = refused.values().map(|refusal| &*refusal.problem).collect();
        assert_eq!(problems[0], "it is bad");
        assert!(
            problems[1].ends_with("2.wasm does not exist"),
            "{problems:?}"
        );
        assert_eq!(house.builds(), 1 + builds);
    }
}

#[tokio::test]
async fn a_builder_that_lies_about_its_artifact_is_not_believed() {
    let mut house = House::new();
    house.scribe.lies = true;
    assert!(matches!(
        house.prepare(&["one"]).await,
        Err(ArtifactsError::Refused(refused))
            if refused.values().all(|refusal| refusal.problem.contains("does not match"))
    ));
    house.scribe.lies = false;
    house.one("one").await;
}

#[tokio::test]
async fn whoever_waits_for_another_process_finds_what_it_built() {
    let house = House::new();
    let spec = house.spec(&["one"]);
    let cache = Cache::open(&spec.server.state_dir).unwrap();
    let component = Component::open(&house.dir.path().join("0.wasm")).unwrap();
    let key = Key::new(component.digest(), "0a1b");
    let lock = cache.lock(&key).unwrap();
    let (first, second) = tokio::join!(house.prepare(&["one"]), async {
        // The other process: it holds the lock, builds and lets go.
        let (draft, file) = cache.draft(&key).unwrap();
        let built = Scribe::default()
            .compile(
                File::open(house.dir.path().join("0.wasm")).unwrap().into(),
                file,
            )
            .await
            .unwrap();
        cache.store(&key, &draft, &built).unwrap();
        drop((draft, lock));
    });
    first.unwrap();
    let () = second;
    assert_eq!(house.builds(), 0);
}
