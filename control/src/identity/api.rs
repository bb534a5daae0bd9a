//! `/v1/identity`, where certificates are given out, and what an operator does with tokens and the CA.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::rejection::JsonRejection;
use axum::extract::{ConnectInfo, DefaultBodyLimit, FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use outrigger_xds::identity::{CertificateRequest, SpiffeId};
use rand::Rng;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::enrol::{Refusal, digest};
use super::roots::{Stage, seconds};
use super::{Authority, Enrolment, IdentityError, Rotation};
use crate::accept::Caller;
use crate::registry::{Error, NewToken, Token};

const MAX_BODY: usize = 64 * 1024;
/// The shortest token that an operator may choose.
const MIN_TOKEN: usize = 32;
const MAX_USES: u32 = 1000;

/// What these calls work on.
pub(crate) struct IdentityApi {
    pub(crate) enrolment: Enrolment,
    pub(crate) operator: SpiffeId,
    pub(crate) rotation: Arc<Rotation>,
}

type Api = State<Arc<IdentityApi>>;

pub(crate) fn router(api: Arc<IdentityApi>) -> Router {
    Router::new()
        .route("/v1/identity", post(enrol))
        .route("/v1/tokens", get(tokens).post(create))
        .route("/v1/tokens/{id}", delete(revoke))
        .route("/v1/ca", get(ca))
        .route("/v1/ca/rotate", post(rotate))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(api)
}

/// Where TLS is disabled.
pub(crate) fn disabled() -> Router {
    let reason = "this server gives out no identities: it runs with --tls disable";
    let answer = move || async move { refuse(StatusCode::NOT_FOUND, "tls_disabled", reason) };
    Router::new()
        .route("/v1/identity", post(answer))
        .route("/v1/tokens", get(answer).post(answer))
        .route("/v1/tokens/{id}", delete(answer))
        .route("/v1/ca", get(answer))
        .route("/v1/ca/rotate", post(answer))
}

async fn enrol(
    State(api): Api,
    ConnectInfo(caller): ConnectInfo<Caller>,
    body: Result<Json<CertificateRequest>, JsonRejection>,
) -> Response {
    let request = match body {
        Ok(Json(request)) => request,
        // Where in it the mistake is may be where the proof is.
        Err(rejection) => {
            let reason = "the body is not a certificate request in JSON";
            return refuse(rejection.status(), "invalid", reason);
        }
    };
    match api.enrolment.enrol(&caller, request).await {
        Ok(certificate) => Json(certificate).into_response(),
        Err(Refusal::Invalid(reason)) => refuse(StatusCode::BAD_REQUEST, "invalid", &reason),
        Err(Refusal::Denied(code, reason)) => refuse(StatusCode::FORBIDDEN, code, &reason),
        Err(Refusal::Failed(_)) => failed("the certificate could not be signed"),
    }
}

/// Proof that an operator calls.
struct ByOperator;

impl FromRequestParts<Arc<IdentityApi>> for ByOperator {
    type Rejection = Response;

    async fn from_request_parts(
        parts: &mut Parts,
        api: &Arc<IdentityApi>,
    ) -> Result<Self, Response> {
        let caller = parts.extensions.get::<ConnectInfo<Caller>>();
        let leaf = caller.and_then(|ConnectInfo(caller)| caller.leaf.as_ref());
        match leaf {
            Some(leaf) if leaf.identity == api.operator && leaf.is_current() => Ok(Self),
            _ => {
                let reason = "only an operator may: connect with the certificate in operator.json of the data directory";
                Err(refuse(StatusCode::FORBIDDEN, "not_operator", reason))
            }
        }
    }
}

/// What an operator says of a new token.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateToken {
    pub(crate) namespace: String,
    pub(crate) service: String,
    /// Good as often as one likes.
    #[serde(default)]
    pub(crate) shared: bool,
    /// How often it is good; 1 if it is not said.
    #[serde(default)]
    pub(crate) uses: Option<u32>,
    /// Seconds. An hour, or for ever if it is shared.
    #[serde(default)]
    pub(crate) ttl: Option<u64>,
    /// The token itself, if the operator has one; only if it is shared.
    #[serde(default)]
    pub(crate) token: Option<String>,
}

const HOUR: u64 = 3600;

impl CreateToken {
    fn check(&self, trust_domain: &str) -> Result<(), String> {
        SpiffeId::service(trust_domain, &self.namespace, &self.service)?;
        match (self.shared, self.uses) {
            (true, Some(_)) => return Err("uses: cannot be given with shared".to_owned()),
            (false, Some(uses)) if uses == 0 || uses > MAX_USES => {
                return Err(format!("uses: {uses} is not a number from 1 to {MAX_USES}"));
            }
            _ => {}
        }
        if self.ttl == Some(0) {
            return Err("ttl: must be at least 1 second".to_owned());
        }
        match &self.token {
            Some(_) if !self.shared => Err("token: can be given with shared alone".to_owned()),
            Some(token) if token.len() < MIN_TOKEN => {
                Err(format!("token: has less than {MIN_TOKEN} characters"))
            }
            _ => Ok(()),
        }
    }
}

async fn create(_: ByOperator, State(api): Api, Json(wanted): Json<CreateToken>) -> Response {
    let authority = &api.enrolment.authority;
    if let Err(reason) = wanted.check(&authority.settings().trust_domain) {
        return refuse(StatusCode::BAD_REQUEST, "invalid", &reason);
    }
    let kind = if wanted.shared { "ost1" } else { "ojt1" };
    let text = wanted.token.unwrap_or_else(|| {
        let secret: [u8; 32] = rand::rng().random();
        let fingerprint = &authority.now().fingerprint;
        format!("{kind}.{fingerprint}.{}", URL_SAFE_NO_PAD.encode(secret))
    });
    let ttl = wanted.ttl.or((!wanted.shared).then_some(HOUR));
    let new = NewToken {
        digest: digest(&text),
        pin: pin(&text).map(str::to_owned),
        namespace: wanted.namespace,
        service: wanted.service,
        uses: (!wanted.shared).then(|| wanted.uses.unwrap_or(1)),
        ttl: ttl.map(|seconds| seconds.saturating_mul(1000)),
    };
    let created = api
        .enrolment
        .writer
        .call(move |registry, context| registry.create_token(context, new))
        .await;
    match created {
        Ok(token) => {
            let mut shown = describe(&token, authority);
            shown["token"] = json!(text);
            Json(shown).into_response()
        }
        Err(error) => refuse_error(&error),
    }
}

async fn tokens(_: ByOperator, State(api): Api) -> Response {
    let registry = api.enrolment.writer.read();
    let all: Vec<_> = registry
        .tokens()
        .into_iter()
        .map(|row| describe(row, &api.enrolment.authority))
        .collect();
    Json(all).into_response()
}

/// The fingerprint in a token; one that an operator chose may have none.
fn pin(token: &str) -> Option<&str> {
    let (kind, rest) = token.split_once('.')?;
    let (pin, _) = rest.split_once('.')?;
    (["ost1", "ojt1"].contains(&kind)).then_some(pin)
}

fn describe(token: &Token, authority: &Authority) -> serde_json::Value {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = u64::try_from(now.unwrap_or(Duration::ZERO).as_millis()).unwrap_or(u64::MAX);
    json!({
        "id": token.id,
        "namespace": token.namespace,
        "service": token.service,
        "kind": if token.uses.is_some() { "join" } else { "shared" },
        "state": match (token.state(now), &token.pin) {
            ("good", Some(pin)) if !authority.now().sends(pin) => "pins a root that is gone",
            (state, _) => state,
        },
        "uses": token.uses,
        "used": token.used,
        "created": token.created / 1000,
        "expires": token.expires.map(|expires| expires / 1000),
    })
}

async fn revoke(_: ByOperator, State(api): Api, Path(id): Path<String>) -> Response {
    let revoked = api
        .enrolment
        .writer
        .call(move |registry, _| registry.revoke_token(&id))
        .await;
    match revoked {
        Ok(()) => Json(json!({})).into_response(),
        Err(error) => refuse_error(&error),
    }
}

/// Anybody may know whom to trust.
async fn ca(State(api): Api) -> Response {
    let authority = &api.enrolment.authority;
    let current = authority.now();
    let roots = current.roots.as_ref().map_or(&[][..], |roots| &roots.0);
    let overlap = authority.settings().overlap().as_secs();
    let shown: Vec<_> = roots
        .iter()
        .map(|root| {
            let (stage, until) = match root.stage {
                Stage::Published { since } => ("published", Some(since + overlap)),
                Stage::Signing => ("signing", None),
                Stage::Leaving { until } => ("leaving", Some(until)),
                Stage::Gone => ("gone", None),
            };
            json!({
                "fingerprint": root.fingerprint,
                "stage": stage,
                "until": until,
                "not_after": root.not_after,
            })
        })
        .collect();
    let shown = json!({
        "trust_domain": authority.settings().trust_domain,
        "fingerprint": current.fingerprint,
        "embedded": current.roots.is_some(),
        "roots": shown,
        "bundle": current.bundle,
        "waiting_for": api.rotation.waiting_for(),
        "now": seconds(SystemTime::now()),
    });
    Json(shown).into_response()
}

async fn rotate(_: ByOperator, State(api): Api) -> Response {
    let authority = Arc::clone(&api.enrolment.authority);
    // A passphrase takes its time.
    let rotated = tokio::task::spawn_blocking(move || authority.rotate()).await;
    match rotated {
        Ok(Ok(())) => Json(json!({})).into_response(),
        Ok(Err(error)) => refuse_rotation(&error),
        Err(_) => failed("the rotation was not begun"),
    }
}

fn refuse_rotation(error: &IdentityError) -> Response {
    refuse(StatusCode::CONFLICT, "no_rotation", &error.to_string())
}

fn refuse_error(error: &Error) -> Response {
    match error {
        Error::Internal(_) => failed("the store could not be written"),
        error => refuse(StatusCode::BAD_REQUEST, error.code(), &error.to_string()),
    }
}

fn failed(message: &str) -> Response {
    refuse(StatusCode::INTERNAL_SERVER_ERROR, "failed", message)
}

fn refuse(status: StatusCode, code: &str, message: &str) -> Response {
    (status, Json(json!({ "code": code, "message": message }))).into_response()
}
