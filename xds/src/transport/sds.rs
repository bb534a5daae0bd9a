//! SDS for the proxy beside us (Envoy's secret discovery service): its certificate with the key, and the roots.
//!
//! Both variants are served, state-of-the-world and delta. Whoever is let onto the connection gets the key: who that is, the socket's
//! mode says.

use std::collections::BTreeSet;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::envoy::service::discovery::v3 as discovery;
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_server as sds;
use envoy_types::pb::google::protobuf::Any;
use futures_util::Stream as Streamed;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};
use zeroize::Zeroizing;

use super::Io;
use crate::encode::IDENTITY_SECRET;
use crate::encode_identity::secret;
use crate::identity::TRUST_BUNDLE;
use crate::model::TrustBundle;
use crate::resource::ResourceType;

/// Answers waiting to be written; more make the talk wait.
const ANSWERS: usize = 4;

/// What a proxy proves itself by, and whom it believes; all of it PEM. There is no `Debug`, as the key is in it.
#[derive(Clone)]
pub struct Secrets {
    /// The certificate, leaf first.
    pub chain: String,
    /// Its private key.
    pub key: Zeroizing<String>,
    /// The roots.
    pub bundle: String,
}

/// What there is to be served, once there is something.
pub type Held = watch::Receiver<Option<Arc<Secrets>>>;

/// Serves the secrets [`IDENTITY_SECRET`] and [`TRUST_BUNDLE`] on `incoming` connections, and again whenever they change.
pub async fn serve_sds<IO>(
    incoming: impl Streamed<Item = io::Result<IO>> + Send,
    held: Held,
) -> Result<(), tonic::transport::Error>
where
    IO: Io + Connected + 'static,
{
    tonic::transport::Server::builder()
        .add_service(sds::SecretDiscoveryServiceServer::new(Sds { held }))
        .serve_with_incoming(incoming)
        .await
}

impl Secrets {
    /// One of them as a resource; `None` for a name that is not served.
    fn resource(&self, name: &str) -> Option<Any> {
        let secret = match name {
            IDENTITY_SECRET => tls::Secret {
                name: name.to_owned(),
                r#type: Some(tls::secret::Type::TlsCertificate(tls::TlsCertificate {
                    certificate_chain: Some(inline(&self.chain)),
                    private_key: Some(inline(&self.key)),
                    ..Default::default()
                })),
            },
            TRUST_BUNDLE => secret(&TrustBundle {
                name: name.to_owned(),
                roots: self.bundle.clone(),
            }),
            _ => return None,
        };
        Some(Any {
            type_url: ResourceType::Secret.type_url().to_owned(),
            value: secret.encode_to_vec(),
        })
    }

    /// The same for the same certificate and roots.
    fn version(&self) -> String {
        let digest = Sha256::new()
            .chain_update(&self.chain)
            .chain_update(&self.bundle)
            .finalize();
        digest[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

fn inline(text: &str) -> core::DataSource {
    core::DataSource {
        specifier: Some(core::data_source::Specifier::InlineString(text.to_owned())),
        ..Default::default()
    }
}

/// The other end of one stream.
#[derive(Default)]
struct Subscriber {
    names: BTreeSet<String>,
    answers: u64,
}

impl Subscriber {
    /// Whether an answer is due: to another question, not to an acknowledgement.
    fn hears(&mut self, request: discovery::DiscoveryRequest) -> bool {
        refused(request.error_detail.as_ref().map(|error| &*error.message));
        let names = request.resource_names.into_iter().collect();
        let first = request.response_nonce.is_empty();
        std::mem::replace(&mut self.names, names) != self.names || first
    }

    fn hears_delta(&mut self, request: discovery::DeltaDiscoveryRequest) -> bool {
        refused(request.error_detail.as_ref().map(|error| &*error.message));
        let asks = !request.resource_names_subscribe.is_empty();
        self.names.extend(request.resource_names_subscribe);
        for name in &request.resource_names_unsubscribe {
            self.names.remove(name);
        }
        asks
    }

    fn nonce(&mut self) -> String {
        self.answers += 1;
        self.answers.to_string()
    }

    fn told(&mut self, secrets: &Secrets) -> discovery::DiscoveryResponse {
        let resources = self.names.iter().filter_map(|name| secrets.resource(name));
        discovery::DiscoveryResponse {
            version_info: secrets.version(),
            resources: resources.collect(),
            type_url: ResourceType::Secret.type_url().to_owned(),
            nonce: self.nonce(),
            ..Default::default()
        }
    }

    fn told_delta(&mut self, secrets: &Secrets) -> discovery::DeltaDiscoveryResponse {
        let resource = |name: &String| discovery::Resource {
            name: name.clone(),
            version: secrets.version(),
            resource: secrets.resource(name),
            ..Default::default()
        };
        let all = self.names.iter().map(resource);
        let (there, missing): (Vec<_>, Vec<_>) = all.partition(|one| one.resource.is_some());
        discovery::DeltaDiscoveryResponse {
            system_version_info: secrets.version(),
            resources: there,
            removed_resources: missing.into_iter().map(|one| one.name).collect(),
            type_url: ResourceType::Secret.type_url().to_owned(),
            nonce: self.nonce(),
            ..Default::default()
        }
    }
}

fn refused(reason: Option<&str>) {
    if let Some(reason) = reason {
        tracing::warn!(reason, "the proxy does not take its secrets");
    }
}

struct Sds {
    held: Held,
}

/// Answers one stream until it ends.
async fn talk<Q, A>(
    mut requests: Streaming<Q>,
    mut held: Held,
    answers: mpsc::Sender<Result<A, Status>>,
    hears: fn(&mut Subscriber, Q) -> bool,
    told: fn(&mut Subscriber, &Secrets) -> A,
) {
    let mut subscriber = Subscriber::default();
    let mut due = false;
    loop {
        let secrets = held.borrow_and_update().clone();
        if let Some(secrets) = secrets.filter(|_| due) {
            due = false;
            let answer = told(&mut subscriber, &secrets);
            if answers.send(Ok(answer)).await.is_err() {
                return;
            }
        }
        tokio::select! {
            request = requests.message() => match request {
                Ok(Some(request)) => due |= hears(&mut subscriber, request),
                Ok(None) | Err(_) => return,
            },
            changed = held.changed() => match changed {
                Ok(()) => due = !subscriber.names.is_empty(),
                Err(_) => return,
            },
        }
    }
}

type Answers<A> = Pin<Box<dyn Streamed<Item = Result<A, Status>> + Send>>;

impl Sds {
    fn begin<Q, A>(
        &self,
        requests: Streaming<Q>,
        hears: fn(&mut Subscriber, Q) -> bool,
        told: fn(&mut Subscriber, &Secrets) -> A,
    ) -> Response<Answers<A>>
    where
        Q: Send + 'static,
        A: Send + 'static,
    {
        let (answers, said) = mpsc::channel(ANSWERS);
        tokio::spawn(talk(requests, self.held.clone(), answers, hears, told));
        Response::new(Box::pin(ReceiverStream::new(said)))
    }
}

#[tonic::async_trait]
impl sds::SecretDiscoveryService for Sds {
    type StreamSecretsStream = Answers<discovery::DiscoveryResponse>;
    type DeltaSecretsStream = Answers<discovery::DeltaDiscoveryResponse>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<discovery::DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let requests = request.into_inner();
        Ok(self.begin(requests, Subscriber::hears, Subscriber::told))
    }

    async fn delta_secrets(
        &self,
        request: Request<Streaming<discovery::DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        let requests = request.into_inner();
        Ok(self.begin(requests, Subscriber::hears_delta, Subscriber::told_delta))
    }

    async fn fetch_secrets(
        &self,
        _: Request<discovery::DiscoveryRequest>,
    ) -> Result<Response<discovery::DiscoveryResponse>, Status> {
        Err(Status::unimplemented("secrets are streamed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(chain: &str) -> Secrets {
        Secrets {
            chain: chain.to_owned(),
            key: Zeroizing::new("key".to_owned()),
            bundle: "roots".to_owned(),
        }
    }

    fn asks(names: &[&str], nonce: &str) -> discovery::DiscoveryRequest {
        discovery::DiscoveryRequest {
            resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
            response_nonce: nonce.to_owned(),
            ..Default::default()
        }
    }

    fn decoded(resource: &Any) -> tls::Secret {
        tls::Secret::decode(resource.value.as_slice()).unwrap()
    }

    #[test]
    fn a_question_is_answered_and_an_acknowledgement_is_not() {
        let mut subscriber = Subscriber::default();
        assert!(subscriber.hears(asks(&[IDENTITY_SECRET], "")));
        let answer = subscriber.told(&secrets("one"));
        assert_eq!(answer.resources.len(), 1);
        let Some(tls::secret::Type::TlsCertificate(certificate)) =
            decoded(&answer.resources[0]).r#type
        else {
            panic!("a certificate")
        };
        assert_eq!(certificate.private_key, Some(inline("key")));
        assert!(!subscriber.hears(asks(&[IDENTITY_SECRET], &answer.nonce)));
        assert!(subscriber.hears(asks(
            &[IDENTITY_SECRET, TRUST_BUNDLE, "other"],
            &answer.nonce
        )));
        let both = subscriber.told(&secrets("two"));
        assert_eq!(both.resources.len(), 2);
        assert!(both.version_info != answer.version_info && both.nonce != answer.nonce);
    }

    #[test]
    fn delta_says_which_names_there_are_not() {
        let mut subscriber = Subscriber::default();
        let request = |subscribe: &[&str], unsubscribe: &[&str]| {
            let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            discovery::DeltaDiscoveryRequest {
                resource_names_subscribe: owned(subscribe),
                resource_names_unsubscribe: owned(unsubscribe),
                ..Default::default()
            }
        };
        assert!(subscriber.hears_delta(request(&[TRUST_BUNDLE, "other"], &[])));
        let answer = subscriber.told_delta(&secrets("one"));
        assert_eq!(answer.resources[0].name, TRUST_BUNDLE);
        assert_eq!(answer.removed_resources, ["other"]);
        assert!(!subscriber.hears_delta(request(&[], &["other"])));
        assert!(
            subscriber
                .told_delta(&secrets("one"))
                .removed_resources
                .is_empty()
        );
    }
}
