use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Mutex;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use outrigger_xds::identity::{Certificate, CertificateRequest, Proof};
use outrigger_xds::tls::{Acceptor, Clients, Credentials, Roots, alpn};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, IsCa,
    KeyPair, SanType, date_time_ymd,
};
use serde_json::json;
use tokio::net::TcpListener;

use super::*;

type Ca = CertifiedIssuer<'static, KeyPair>;

fn orders() -> SpiffeId {
    SpiffeId::service("td", "shop", "orders").unwrap()
}

fn ca() -> Ca {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn named(id: &SpiffeId, (begin, end): (i64, i64)) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().unwrap())];
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = i64::try_from(now.unwrap().as_secs()).unwrap();
    let at = |offset| date_time_ymd(1970, 1, 1) + Duration::from_secs((now + offset) as u64);
    (params.not_before, params.not_after) = (at(begin), at(end));
    params
}

/// How the control server behaves.
struct Behaviour {
    /// Proofs that are taken; a join token is, once.
    tokens: BTreeSet<String>,
    /// Whether a certificate is taken instead.
    renews: bool,
    /// Seconds from now between which what it signs is good.
    good: (i64, i64),
    signs_for: SpiffeId,
    /// How often it was asked.
    asked: u64,
    /// A join token that was used, with the request that used it: it is good again for the same key.
    used: BTreeSet<(String, String)>,
}

/// A control server that knows of identities alone.
struct Control {
    ca: Ca,
    behaviour: Mutex<Behaviour>,
}

impl Control {
    async fn start(tokens: &[&str], good: (i64, i64)) -> (Arc<Self>, Uri) {
        let behaviour = Behaviour {
            tokens: tokens.iter().map(|token| (*token).to_owned()).collect(),
            renews: true,
            good,
            signs_for: orders(),
            asked: 0,
            used: BTreeSet::new(),
        };
        let this = Arc::new(Self {
            ca: ca(),
            behaviour: Mutex::new(behaviour),
        });
        let own = KeyPair::generate().unwrap();
        let leaf = named(&SpiffeId::control("td").unwrap(), (-60, 3600));
        let chain = leaf.signed_by(&own, &this.ca).unwrap().pem() + &this.ca.pem();
        let identity = Identity::default();
        let key = own.serialize_pem();
        let credentials = Credentials::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
        identity.set_credentials(credentials);
        identity.set_roots(Roots::from_pem(this.ca.pem().as_bytes()).unwrap());
        let clients = Clients::May(Peer::TrustDomain("td".to_owned()));
        let acceptor = Acceptor::new(Arc::new(identity), clients, &[alpn::HTTP1], &[], None);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("https://{}", listener.local_addr().unwrap());
        tokio::spawn(Arc::clone(&this).serve(listener, acceptor));
        (this, uri.parse().unwrap())
    }

    async fn serve(self: Arc<Self>, listener: TcpListener, acceptor: Acceptor) {
        while let Ok((stream, _)) = listener.accept().await {
            let accept = tokio_rustls::TlsAcceptor::from(acceptor.config().unwrap());
            let Ok(stream) = accept.accept(stream).await else {
                continue;
            };
            let certified = stream.get_ref().1.peer_certificates().is_some();
            let this = Arc::clone(&self);
            let service = hyper::service::service_fn(move |request| {
                let this = Arc::clone(&this);
                async move { Ok::<_, Infallible>(this.answer(certified, request).await) }
            });
            let serving = hyper::server::conn::http1::Builder::new();
            tokio::spawn(serving.serve_connection(TokioIo::new(stream), service));
        }
    }

    async fn answer(
        &self,
        certified: bool,
        request: Request<hyper::body::Incoming>,
    ) -> Response<Full<Bytes>> {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let request: CertificateRequest = serde_json::from_slice(&body).unwrap();
        let mut behaviour = self.behaviour.lock().unwrap();
        behaviour.asked += 1;
        let proved = match &request.proof {
            None => certified && behaviour.renews,
            Some(Proof::JoinToken(token)) => {
                let use_of = (token.clone(), request.csr.clone());
                behaviour.tokens.remove(token) && behaviour.used.insert(use_of.clone())
                    || behaviour.used.contains(&use_of)
            }
            Some(Proof::ServiceToken(token) | Proof::Document(token)) => {
                behaviour.tokens.contains(token)
            }
        };
        if !proved {
            let message = json!({"code": "AccessDenied", "message": "no such token"});
            let response = Response::builder().status(403);
            return response.body(Full::from(message.to_string())).unwrap();
        }
        let mut csr = CertificateSigningRequestParams::from_pem(&request.csr).unwrap();
        csr.params = named(&behaviour.signs_for, behaviour.good);
        let certificate = Certificate {
            chain: csr.signed_by(&self.ca).unwrap().pem(),
            bundle: self.ca.pem(),
            identity: behaviour.signs_for.clone(),
        };
        Response::new(Full::from(serde_json::to_vec(&certificate).unwrap()))
    }

    fn fingerprint(&self) -> String {
        Roots::from_pem(self.ca.pem().as_bytes())
            .unwrap()
            .fingerprints()[0]
            .clone()
    }

    fn join_token(&self, secret: &str) -> Enrolment {
        let token = format!("ojt1.{}.{secret}", self.fingerprint());
        self.behaviour.lock().unwrap().tokens.insert(token.clone());
        Enrolment::JoinToken(token.into())
    }
}

struct Task {
    ready: Arc<Readiness>,
    identity: Arc<Identity>,
    issued: watch::Receiver<Option<Arc<Issued>>>,
    running: tokio::task::JoinHandle<()>,
}

impl Task {
    fn start(control: &Uri, enrolment: Enrolment, state: Option<&StateDir>) -> Self {
        Self::holding(None, control, enrolment, state)
    }

    /// With roots from before.
    fn holding(
        roots: Option<Roots>,
        control: &Uri,
        enrolment: Enrolment,
        state: Option<&StateDir>,
    ) -> Self {
        let ready = Arc::new(Readiness::new(&[]));
        let identity: Arc<Identity> = Arc::default();
        roots
            .into_iter()
            .for_each(|roots| identity.set_roots(roots));
        let config = EnrolConfig {
            enrolment,
            service: orders(),
            node: "t1".to_owned(),
            control: vec![control.clone()],
            resolver: Arc::new(Resolver::with_servers(&[])),
            state: state.cloned(),
            ready: Arc::clone(&ready),
            counts: Arc::default(),
        };
        let keeper = Keeper::new(config, Arc::clone(&identity));
        Self {
            ready,
            identity,
            issued: keeper.issued(),
            running: tokio::spawn(keeper.run()),
        }
    }

    /// The next certificate.
    async fn next(&mut self) -> Arc<Issued> {
        let changed = tokio::time::timeout(Duration::from_secs(20), self.issued.changed());
        changed.await.expect("in time").expect("it goes on");
        self.issued
            .borrow_and_update()
            .clone()
            .expect("never taken back")
    }

    /// What is wrong, once something is that says `words`.
    async fn problem(&self, words: &str) -> String {
        let mut changed = self.ready.watch();
        let said = async {
            loop {
                changed.borrow_and_update();
                match self.ready.problem_of(IDENTITY) {
                    Some(said) if said.contains(words) => return said,
                    _ => changed.changed().await.unwrap(),
                }
            }
        };
        let said = tokio::time::timeout(Duration::from_secs(20), said).await;
        said.unwrap_or_else(|_| panic!("{words:?} is not said in {:?}", self.ready.problems()))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.running.abort();
    }
}

#[tokio::test]
async fn a_join_token_is_used_once_and_renewal_and_restart_need_none() {
    let (control, uri) = Control::start(&[], (-300, 4)).await;
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(folder.path()).unwrap();
    let enrolment = control.join_token("s3cret");
    let mut task = Task::start(&uri, enrolment.clone(), Some(&state));
    assert!(!task.ready.is_ready());
    let first = task.next().await;
    assert!(task.ready.is_ready() && task.identity.id() == Some(orders()));
    let second = task.next().await;
    assert_ne!(
        *first.key, *second.key,
        "every certificate has a key of its own"
    );
    drop(task);
    assert!(control.behaviour.lock().unwrap().tokens.is_empty());

    control.behaviour.lock().unwrap().good = (-300, 3600);
    let mut task = Task::start(&uri, enrolment, Some(&state));
    assert!(task.ready.is_ready(), "what was kept is in force at once");
    // It has four seconds, and is renewed by itself.
    let third = task.next().await;
    assert!(third.chain != second.chain && task.ready.problems().is_empty());

    let file = folder.path().join("identity");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&file).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    drop(task);
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&file, open).unwrap();
    let task = Task::start(&uri, control.join_token("other"), Some(&state));
    assert!(!task.ready.is_ready(), "others may have read it");
}

#[tokio::test]
async fn a_server_with_another_root_gets_no_token() {
    let (control, uri) = Control::start(&[], (-300, 3600)).await;
    let foreign = format!("ojt1.{}.s3cret", "ab".repeat(32));
    let task = Task::start(&uri, Enrolment::JoinToken(foreign.into()), None);
    let said = task.problem("fingerprint").await;
    assert!(said.contains(&control.fingerprint()), "{said}");
    assert!(!said.contains("s3cret"), "{said}");
    assert_eq!(control.behaviour.lock().unwrap().asked, 0);
}

#[tokio::test]
async fn a_token_that_is_not_taken_is_said_without_showing_it() {
    let (control, uri) = Control::start(&[], (-300, 3600)).await;
    let enrolment = control.join_token("s3cret");
    control.behaviour.lock().unwrap().tokens.clear();
    let task = Task::start(&uri, enrolment, None);
    let said = task.problem("no such token").await;
    assert!(
        said.starts_with("not enrolled") && !said.contains("s3cret"),
        "{said}"
    );
    let page = task.ready.render().1.to_string();
    assert!(
        page.contains("no such token") && !task.ready.is_ready(),
        "{page}"
    );
}

#[tokio::test]
async fn who_is_not_renewed_is_ready_until_the_end_and_then_goes_back_to_its_proof() {
    let (control, uri) = Control::start(&["shared"], (-300, 3)).await;
    control.behaviour.lock().unwrap().renews = false;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "shared\n").unwrap();
    let pin = Some(control.fingerprint().parse().unwrap());
    let mut task = Task::start(&uri, Enrolment::ServiceToken(file.clone(), pin), None);
    task.next().await;
    // From here on neither is taken.
    control.behaviour.lock().unwrap().tokens.clear();
    let said = task.problem("not renewed").await;
    assert!(
        said.contains("good until") && task.ready.is_ready(),
        "{said}"
    );
    let said = task.problem("the certificate ended on").await;
    assert!(
        said.contains("by the proof again") && !task.ready.is_ready(),
        "{said}"
    );
    // The file is read again whenever it is used.
    std::fs::write(&file, "newer\n").unwrap();
    control
        .behaviour
        .lock()
        .unwrap()
        .tokens
        .insert("newer".to_owned());
    task.next().await;
    assert!(task.ready.is_ready() && task.ready.problems().is_empty());
}

#[tokio::test]
async fn a_certificate_of_another_time_or_of_somebody_else_is_not_used() {
    let (control, uri) = Control::start(&[], (1000, 5000)).await;
    let task = Task::start(&uri, control.join_token("one"), None);
    let said = task.problem("the clocks differ by at least").await;
    assert!(said.contains("begins later"), "{said}");
    drop(task);
    let (control, uri) = Control::start(&[], (-300, 3600)).await;
    control.behaviour.lock().unwrap().signs_for = SpiffeId::service("td", "shop", "cart").unwrap();
    let task = Task::start(&uri, control.join_token("two"), None);
    task.problem("certificate is for spiffe://td/ns/shop/svc/cart")
        .await;
    assert!(!task.identity.is_ready());
}

#[tokio::test]
async fn who_has_missed_a_whole_rotation_comes_back_by_the_pin_and_else_the_remedy_is_named() {
    let (control, uri) = Control::start(&[], (-300, 3600)).await;
    let stale = || Roots::from_pem(ca().pem().as_bytes()).unwrap();
    let mut task = Task::holding(Some(stale()), &uri, control.join_token("s3cret"), None);
    task.next().await;
    assert!(task.ready.is_ready());

    let foreign = format!("ojt1.{}.s3cret", "ab".repeat(32));
    let task = Task::holding(
        Some(stale()),
        &uri,
        Enrolment::JoinToken(foreign.into()),
        None,
    );
    let said = task.problem("--control-ca").await;
    assert!(
        said.contains("new token") && !said.contains("s3cret"),
        "{said}"
    );
    assert_eq!(control.behaviour.lock().unwrap().asked, 1);
}

#[tokio::test]
async fn a_kept_certificate_outlives_a_new_pin_of_the_same_ca_and_not_one_of_another() {
    let (control, uri) = Control::start(&[], (-300, 3600)).await;
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(folder.path()).unwrap();
    let mut task = Task::start(&uri, control.join_token("s3cret"), Some(&state));
    task.next().await;
    drop(task);
    // As it was when the CA was the one before, which is gone by now.
    let file = folder.path().join("identity");
    let kept = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, {
        let mut kept: serde_json::Value = serde_json::from_str(&kept).unwrap();
        kept["pinned"] = json!(["cd".repeat(32)]);
        kept.to_string()
    })
    .unwrap();
    let task = Task::start(&uri, control.join_token("newer"), Some(&state));
    assert!(task.ready.is_ready(), "it is of the CA that is pinned");
    drop(task);
    let foreign = format!("ojt1.{}.s3cret", "ab".repeat(32));
    let task = Task::start(&uri, Enrolment::JoinToken(foreign.into()), Some(&state));
    assert!(!task.ready.is_ready(), "it is of another CA");
}

#[tokio::test]
async fn a_clock_that_differs_uses_up_no_token_and_stays_the_reason() {
    let (control, uri) = Control::start(&[], (1000, 5000)).await;
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(folder.path()).unwrap();
    let enrolment = control.join_token("s3cret");
    let task = Task::start(&uri, enrolment.clone(), Some(&state));
    task.problem("the clocks differ").await;
    drop(task);
    // A crash between request and answer: what is asked again is asked for the same key.
    let mut task = Task::start(&uri, enrolment, Some(&state));
    task.problem("the clocks differ").await;
    assert!(control.behaviour.lock().unwrap().asked >= 2);
    let pending = folder.path().join("identity-pending");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&pending).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    control.behaviour.lock().unwrap().used.clear();
    let said = task.problem("no such token").await;
    assert!(said.contains("not used: the clocks differ"), "{said}");

    control.behaviour.lock().unwrap().good = (-300, 3600);
    control.join_token("s3cret");
    task.next().await;
    assert!(task.ready.is_ready() && !pending.exists());
}
