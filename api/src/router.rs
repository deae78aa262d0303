//! All routes. To add a route, add a file in `routes/` and a line here.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderMap, HeaderName, Method, header};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use domain::permission::Permission::{
    CreditsRead, JobsRead, JobsWrite, KeysRead, KeysWrite, OperationsMoney, OperationsRead,
    OperationsWrite, RetentionRead, RetentionWrite, StorageRead, UploadsRead, UploadsWrite,
};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::auth::permission::needs;
use crate::download::StaticContent;
use crate::error::{Code, Problem};
use crate::extract::MAX_BODY;
use crate::routes::{
    admin, artifacts, console, credits, errors, files, health, jobs, keys, metrics, models,
    retention, storage, uploads,
};
use crate::{idempotency, openapi, rates, request};

/// The public API: its routes, inside the layers that every request passes.
pub fn router(app: Arc<App>) -> Router {
    let cors = cors(&app);
    let (routes, openapi) = documented_routes().split_for_parts();
    let document = StaticContent::new("application/json", openapi::document(&openapi));
    routes
        .route("/", get(console::handler))
        .route("/files/{*key}", get(files::handler))
        .route(
            "/openapi.json",
            get(async move |headers: HeaderMap| document.respond(&headers)),
        )
        .fallback(errors::no_such_route)
        .method_not_allowed_fallback(errors::wrong_method)
        // The layer that is added last is the outermost. It runs first, and sees the answers of all other layers.
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn_with_state(
            Arc::clone(&app),
            request::enforce_timeout,
        ))
        .layer(CatchPanicLayer::custom(answer_panic))
        .layer(from_fn_with_state(Arc::clone(&app), request::limit_rate))
        .layer(cors)
        .layer(from_fn_with_state(
            Arc::clone(&app),
            request::finish_response,
        ))
        .with_state(app)
}

/// The routes that `/openapi.json` describes. Each handler declares its own path and method. Each line says which permission
/// the caller needs; a route without one is public.
pub(crate) fn documented_routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(openapi::base())
        // /v1/jobs
        .routes(needs(JobsWrite, routes!(jobs::create::handler)))
        .routes(needs(JobsRead, routes!(jobs::list::handler)))
        .routes(needs(JobsRead, routes!(jobs::get::handler)))
        .routes(needs(JobsWrite, routes!(jobs::cancel::handler)))
        // /v1/artifacts
        .routes(needs(JobsRead, routes!(artifacts::get::handler)))
        .routes(needs(JobsRead, routes!(artifacts::content::handler)))
        // /v1/models
        .routes(routes!(models::list::handler))
        .routes(routes!(models::get::handler))
        // /v1/credits
        .routes(needs(CreditsRead, routes!(credits::get::handler)))
        .routes(needs(CreditsRead, routes!(credits::transfers::handler)))
        // /v1/uploads
        .routes(needs(UploadsWrite, routes!(uploads::create::handler)))
        .routes(needs(UploadsRead, routes!(uploads::list::handler)))
        .routes(needs(UploadsWrite, routes!(uploads::direct::handler)))
        .routes(needs(UploadsRead, routes!(uploads::get::handler)))
        .routes(needs(UploadsWrite, routes!(uploads::delete::handler)))
        .routes(needs(UploadsWrite, routes!(uploads::complete::handler)))
        // /v1/retention, /v1/receipts and /v1/storage
        .routes(needs(RetentionRead, routes!(retention::get::handler)))
        .routes(needs(RetentionWrite, routes!(retention::put::handler)))
        .routes(needs(RetentionRead, routes!(retention::receipts::handler)))
        .routes(needs(StorageRead, routes!(storage::get::handler)))
        // /v1/keys
        .routes(needs(KeysWrite, routes!(keys::create::handler)))
        .routes(needs(KeysRead, routes!(keys::list::handler)))
        .routes(needs(KeysRead, routes!(keys::get::handler)))
        .routes(needs(KeysWrite, routes!(keys::revoke::handler)))
        .routes(needs(KeysWrite, routes!(keys::rotate::handler)))
        // /v1/admin
        .routes(needs(OperationsRead, routes!(admin::jobs::list)))
        .routes(needs(OperationsRead, routes!(admin::jobs::timeline)))
        .routes(needs(OperationsWrite, routes!(admin::jobs::redrive)))
        .routes(needs(OperationsWrite, routes!(admin::jobs::cancel)))
        .routes(needs(OperationsRead, routes!(admin::pauses::list)))
        .routes(needs(OperationsWrite, routes!(admin::pauses::pause)))
        .routes(needs(OperationsWrite, routes!(admin::pauses::resume)))
        .routes(needs(OperationsRead, routes!(admin::workers::list)))
        .routes(needs(OperationsMoney, routes!(admin::tenants::freeze)))
        .routes(needs(OperationsMoney, routes!(admin::tenants::unfreeze)))
        .routes(needs(OperationsMoney, routes!(admin::tenants::adjust)))
        .routes(needs(OperationsRead, routes!(admin::actions::list)))
        // /errors, /livez and /readyz
        .routes(routes!(errors::list))
        .routes(routes!(errors::one))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
}

/// The routes of the API's second port, which is not public: metrics and health.
pub fn metrics_router(app: Arc<App>) -> Router {
    Router::new()
        .route("/metrics/billing", get(metrics::billing))
        .route("/readyz", get(health::ready))
        .with_state(app)
        .merge(process_routes())
}

/// The routes of a worker's port: metrics and health. Billing metrics are not included, because they are scraped only once for the
/// whole service, from the API.
pub fn worker_metrics_router(worker: health::WorkerHealth) -> Router {
    Router::new()
        .route("/readyz", get(health::worker_readiness))
        .with_state(worker)
        .merge(process_routes())
}

/// The routes that every process has.
fn process_routes() -> Router {
    Router::new()
        .route("/metrics", get(metrics::process))
        .route("/livez", get(health::live))
        .layer(map_response(request::forbid_sniffing))
}

/// Lets web pages of the configured origins call the API and read its headers.
fn cors(app: &App) -> CorsLayer {
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(app.cors_origins.iter().cloned()))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::CONTENT_ENCODING,
            header::RANGE,
            header::IF_RANGE,
            header::IF_NONE_MATCH,
            idempotency::KEY,
            request::ID,
            jobs::create::PREFER,
            jobs::create::CANCEL_AFTER,
            HeaderName::from_static(domain::traceparent::HEADER),
            // Browsers' tracers send it together with `traceparent`. The API does not read it.
            HeaderName::from_static("tracestate"),
        ])
        .expose_headers([
            header::LOCATION,
            header::RETRY_AFTER,
            header::ETAG,
            header::ACCEPT_RANGES,
            header::CONTENT_RANGE,
            header::CONTENT_DISPOSITION,
            idempotency::KEY,
            idempotency::REPLAYED,
            request::ID,
            rates::LIMIT,
            rates::POLICY,
            HeaderName::from_static("preference-applied"),
        ])
        .max_age(Duration::from_hours(1))
}

/// The answer to a request whose handler has panicked. The process goes on, and the client learns nothing about the cause.
fn answer_panic(_panic: Box<dyn Any + Send>) -> Response {
    tracing::error!("A handler panicked");
    Problem::from(Code::Internal).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::{HeaderValue, Request, StatusCode};
    use bucket::{Address, Bucket};
    use common::config::{self, DEFAULT_API_MEMORY, Ports, Timing};
    use common::files::ownership::OwnershipChecker;
    use domain::api_key::ApiKey;
    use domain::catalog::Catalog;
    use queue::{Lanes, ReadyQueue};
    use secrecy::SecretString;
    use serde_json::Value;
    use sqlx::postgres::PgPoolOptions;
    use tempfile::TempDir;
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;
    use tower::ServiceExt;

    use super::*;
    use crate::base_url::PublicUrl;
    use crate::budget::Budget;
    use crate::client::Pseudonyms;
    use crate::rates::Rates;
    use crate::readiness::ReadinessCache;
    use crate::routes::models::cache::ModelsCache;
    use crate::shares::Shares;
    use crate::submits::Submits;
    use crate::waiters::Waiters;

    /// An API whose Postgres and Redis do not answer.
    fn app_without_servers() -> (TempDir, App) {
        let folder = tempfile::tempdir().unwrap();
        let pool = PgPoolOptions::new()
            .acquire_timeout(Duration::from_millis(100))
            .connect_lazy("postgres://nobody@127.0.0.1:1/nothing")
            .unwrap();
        let ready_queue = ReadyQueue::new("redis://127.0.0.1:1", "test").unwrap();
        let key = SecretString::from("0123456789".repeat(4));
        let bucket = Bucket::open(&Address::Folder(folder.path().to_owned()), key).unwrap();
        let budget = Budget::within(DEFAULT_API_MEMORY, 1);
        let catalog = Catalog::load(None, None).unwrap();
        let app = App {
            reader: pool.clone(),
            listener: pool.clone(),
            keys: Arc::default(),
            submits: Submits::default(),
            pool: pool.clone(),
            lanes: Lanes::new(&ready_queue, Timing::default().lanes, &catalog),
            ready_queue,
            owner: OwnershipChecker::new(pool.clone(), bucket.clone()),
            bucket,
            operator_key: None,
            link_lifetime: Duration::from_mins(15),
            shares: Shares::new(budget.slots(), budget.body_bytes()),
            budget,
            waiters: Waiters::default(),
            readiness: ReadinessCache::default(),
            unbilled_limits: config::UnbilledLimits::default(),
            catalog: Arc::new(catalog),
            models: ModelsCache::default(),
            cors_origins: vec!["https://studio.example".parse().unwrap()],
            public: PublicUrl::default(),
            ports: Ports::default(),
            rates: Arc::new(Rates::new(
                config::Rates::OFF,
                Pseudonyms::new("a key for tests".into()),
            )),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            drain_delay: Duration::ZERO,
        };
        (folder, app)
    }

    struct Answer {
        status: StatusCode,
        headers: HeaderMap,
        text: String,
    }

    impl Answer {
        fn json(&self) -> Value {
            serde_json::from_str(&self.text).unwrap()
        }
    }

    async fn ask(request: Request<Body>) -> Answer {
        let (_folder, app) = app_without_servers();
        ask_app(app, request).await
    }

    async fn ask_app(app: App, request: Request<Body>) -> Answer {
        let response = router(Arc::new(app)).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.into()).unwrap(),
        }
    }

    fn get(path: &str) -> Request<Body> {
        Request::get(path).body(Body::empty()).unwrap()
    }

    #[tokio::test]
    async fn every_error_is_a_problem() {
        let key = ApiKey::generate();
        let bearer = format!("Bearer {}", key.expose());
        let cases = [
            (get("/nothing"), 404, "not_found"),
            (get("/v1/jobs"), 401, "unauthenticated"),
            (
                Request::delete("/v1/models").body(Body::empty()).unwrap(),
                405,
                "method_not_allowed",
            ),
            (get("/v1/models/dall-e"), 404, "unknown_model"),
            (get("/files/t/1/a.png"), 403, "bad_link"),
            (
                get("/files/t/1/a.png?expires=soon&signature=00"),
                403,
                "bad_link",
            ),
            (get("/v1/jobs/"), 404, "not_found"),
            (
                get("/files/t/1/a.png?expires=9999999999&signature=00"),
                403,
                "bad_link",
            ),
            (
                Request::get("/v1/jobs")
                    .header("Authorization", &bearer)
                    .body(Body::empty())
                    .unwrap(),
                503,
                "unavailable",
            ),
        ];
        for (request, status, code) in cases {
            let path = request.uri().path().to_owned();
            let answer = ask(request).await;
            assert_eq!(answer.status.as_u16(), status, "{path}: {}", answer.text);
            assert_eq!(
                answer.headers[header::CONTENT_TYPE],
                "application/problem+json"
            );
            let problem = answer.json();
            assert_eq!(problem["code"], code);
            assert_eq!(problem["status"], status);
            assert_eq!(problem["instance"], path);
            assert_eq!(
                problem["request_id"],
                answer.headers[request::ID].to_str().unwrap()
            );
        }
    }

    #[tokio::test]
    async fn a_problem_keeps_its_headers() {
        let answer = ask(get("/v1/jobs")).await;
        assert_eq!(answer.headers[header::WWW_AUTHENTICATE], "Bearer");
        let request = Request::delete("/v1/models").body(Body::empty()).unwrap();
        let answer = ask(request).await;
        assert_eq!(answer.headers[header::ALLOW], "GET,HEAD");
        let page = ask(get("/v1/jobs")).await.json()["type"].clone();
        let explained = ask(get(page.as_str().unwrap())).await;
        assert!(explained.text.starts_with("unauthenticated (401)"));
    }

    #[tokio::test]
    async fn the_clients_request_id_is_kept() {
        let request = Request::get("/livez")
            .header("X-Request-Id", "mine-1")
            .body(Body::empty())
            .unwrap();
        let answer = ask(request).await;
        assert_eq!(answer.text, "ok\n");
        assert_eq!(answer.headers[request::ID], "mine-1");
        assert_eq!(answer.headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    }

    #[tokio::test]
    async fn only_the_configured_origins_may_call() {
        let preflight = |origin: &str| {
            Request::options("/v1/jobs")
                .header("Origin", origin)
                .header("Access-Control-Request-Method", "POST")
                .header(
                    "Access-Control-Request-Headers",
                    "authorization,idempotency-key,traceparent,tracestate,content-encoding",
                )
                .body(Body::empty())
                .unwrap()
        };
        let allowed = |answer: &Answer| {
            answer
                .headers
                .get(header::ACCESS_CONTROL_ALLOW_ORIGIN)
                .map(|origin| origin.to_str().unwrap().to_owned())
        };
        let answer = ask(preflight("https://studio.example")).await;
        assert_eq!(allowed(&answer).as_deref(), Some("https://studio.example"));
        let headers = answer.headers[header::ACCESS_CONTROL_ALLOW_HEADERS]
            .to_str()
            .unwrap();
        for needed in [
            "traceparent",
            "tracestate",
            "content-encoding",
            "range",
            "if-none-match",
        ] {
            assert!(
                headers.split(',').any(|allowed| allowed == needed),
                "{needed}: {headers}"
            );
        }
        let answer = ask(preflight("https://elsewhere.example")).await;
        assert_eq!(allowed(&answer), None);
    }

    #[tokio::test]
    async fn static_content_is_sent_once() {
        for path in ["/v1/models", "/openapi.json", "/errors", "/"] {
            let (_folder, app) = app_without_servers();
            let router = router(Arc::new(app));
            let ask = async |known: Option<&HeaderValue>| {
                let mut request = get(path);
                if let Some(tag) = known {
                    let headers = request.headers_mut();
                    headers.insert(header::IF_NONE_MATCH, tag.clone());
                }
                router.clone().oneshot(request).await.unwrap()
            };
            let first = ask(None).await;
            assert_eq!(first.status(), StatusCode::OK, "{path}");
            let tag = first.headers()[header::ETAG].clone();
            assert!(tag.to_str().unwrap().starts_with('"'), "{path}: {tag:?}");
            let again = ask(Some(&tag)).await;
            assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{path}");
            assert_eq!(again.headers()[header::ETAG], tag, "{path}");
            assert!(to_bytes(again.into_body(), 1).await.unwrap().is_empty());
            let other = ask(Some(&HeaderValue::from_static("\"other\""))).await;
            assert_eq!(other.status(), StatusCode::OK, "{path}");
            let [first, other] =
                [first, other].map(|answer| to_bytes(answer.into_body(), 10 << 20));
            assert_eq!(first.await.unwrap(), other.await.unwrap(), "{path}");
        }
    }

    #[tokio::test]
    async fn a_link_opens_its_file() {
        let (_folder, app) = app_without_servers();
        let bytes = bytes::Bytes::from_static(b"words");
        app.bucket.put_new("t/1/j/2/3/0.png", bytes).await.unwrap();
        let (now, lifetime) = (domain::clock::now(), Duration::from_mins(1));
        let link = app
            .bucket
            .local_link("t/1/j/2/3/0.png", "Größe.png", now, lifetime);
        let answer = ask_app(app, get(&link)).await;
        assert_eq!(answer.text, "words");
        assert_eq!(
            answer.headers[header::CONTENT_TYPE],
            "application/octet-stream"
        );
        assert_eq!(
            answer.headers[header::CONTENT_DISPOSITION],
            "attachment; filename=\"Gr__e.png\"; filename*=UTF-8''Gr%C3%B6%C3%9Fe.png"
        );
        assert!(
            answer.headers[header::CONTENT_SECURITY_POLICY]
                .to_str()
                .unwrap()
                .ends_with("sandbox")
        );
    }

    #[tokio::test]
    async fn a_slash_at_the_end_is_explained() {
        let answer = ask(get("/v1/jobs//")).await;
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("leave it out, as in /v1/jobs."), "{detail}");
        assert_eq!(ask(get("//")).await.status, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn without_postgres_the_api_is_alive_but_not_ready() {
        assert_eq!(ask(get("/livez")).await.status, StatusCode::OK);
        let answer = ask(get("/readyz?verbose")).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        let readiness = answer.json();
        assert_eq!(readiness["ready"], false);
        assert_eq!(readiness["dependencies"][0]["name"], "postgres");
        assert!(readiness["dependencies"][1]["problem"].is_string());
    }

    #[tokio::test]
    async fn models_contract_and_console_need_no_key() {
        let models = ask(get("/v1/models")).await.json();
        assert!(models["data"].as_array().unwrap().len() > 1);
        let openapi = ask(get("/openapi.json")).await.json();
        assert!(openapi["paths"]["/v1/jobs"]["post"].is_object());
        let page = ask(get("/")).await;
        assert!(
            page.headers[header::CONTENT_SECURITY_POLICY]
                .to_str()
                .unwrap()
                .starts_with("default-src 'none'")
        );
    }
}
