//! From a handler that is loaded to one that may serve.

use std::future::Future;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::uri::Scheme;
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt as _, Empty};
use skep_core::{HttpCheck, Outcome};
use skep_engine::{CallSetup, Ended, RequestBody, Witness};
use skep_sys::Ticker;

use crate::app::App;
use crate::ids::new_request_id;
use crate::reply::REQUEST_ID;

/// A handler that was found valid in this process: the proof without which it
/// gets into no plan.
#[derive(Clone)]
pub(crate) struct Valid(Arc<App>);

impl Valid {
    pub(crate) fn into_app(self) -> Arc<App> {
        self.0
    }
}

impl Deref for Valid {
    type Target = Arc<App>;

    fn deref(&self) -> &Arc<App> {
        &self.0
    }
}

/// A handler that is loaded and of which nothing is known yet.
pub(crate) struct Unproven {
    pub(crate) app: Arc<App>,
    pub(crate) check: Option<HttpCheck>,
    /// How long its own validation may take.
    pub(crate) deadline: Duration,
}

impl Unproven {
    /// Asks the component, then sends it the request that it must answer well.
    ///
    /// A component without a validation of its own is instantiated once, here as
    /// well as in a canary worker: it costs some 20 µs, and no request shall be the
    /// first to find that it traps or allocates too much.
    pub(crate) async fn validate(self, ticker: &Ticker) -> Result<Valid, String> {
        let _ticks = ticker.inside();
        let validated = self.app.handler.validate(self.deadline).await;
        validated.map_err(|fault| fault.to_string())?;
        if let Some(check) = &self.check {
            let answered = answers(&self.app, check);
            let timely = tokio::time::timeout(check.timeout, answered).await;
            let path = &check.path;
            match timely {
                Ok(Ok(())) => {}
                Ok(Err(problem)) => return Err(format!("the check `GET {path}` {problem}")),
                Err(_) => {
                    let timeout = check.timeout;
                    return Err(format!(
                        "the check `GET {path}` had no whole answer within {timeout:?}"
                    ));
                }
            }
        }
        Ok(Valid(self.app))
    }
}

/// The first variable that is required and not there, in words.
pub(crate) fn missing(require: &[String], env: &[(String, String)]) -> Option<String> {
    require.iter().find_map(|name| {
        // The last one counts where a name is given twice.
        let value = env.iter().rev().find(|(known, _)| known == name);
        match value {
            Some((_, value)) if !value.is_empty() => None,
            Some(_) => Some(format!("the variable {name} is required and empty")),
            None => Some(format!("the variable {name} is required and not set")),
        }
    })
}

/// Sends one request as if a client had, and reads the response to its end.
fn answers<'a>(
    app: &'a App,
    check: &'a HttpCheck,
) -> impl Future<Output = Result<(), String>> + Send + 'a {
    let told = Told::default();
    let id = new_request_id();
    let body: RequestBody = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let request = Request::get(check.path.as_str())
        .header(header::HOST, HeaderValue::from_static("localhost"))
        .header(
            header::USER_AGENT,
            HeaderValue::from_static("skep-validate"),
        )
        .header(REQUEST_ID, id.clone())
        .body(body);
    async move {
        let request = request.map_err(|error| format!("cannot be made: {error}"))?;
        let id = id.to_str().unwrap_or_default().into();
        let setup = CallSetup {
            scheme: Scheme::HTTP,
            request_id: id,
            patience: check.timeout,
        };
        let call = app.handler.call(request, setup, told.clone());
        let response = call.await.map_err(|outcome| told.failure(outcome))?;
        let status = response.status().as_u16();
        if status != check.status {
            let wanted = check.status;
            return Err(format!("was answered with {status} instead of {wanted}"));
        }
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            frame.map_err(|cut| told.failure(cut.0))?;
        }
        Ok(())
    }
}

/// Keeps how the call of a check ended.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Option<Ended>>>);

impl Told {
    fn failure(&self, outcome: Outcome) -> String {
        let ended = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let detail = ended.as_ref().and_then(|ended| ended.detail.as_deref());
        let detail = detail.unwrap_or("for no reason that is known");
        format!("failed ({}): {detail}", outcome.name())
    }
}

impl Witness for Told {
    fn ended(self, ended: Ended) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn required_variables_are_there_and_say_something() {
        let env = [("A", "1"), ("EMPTY", ""), ("TWICE", "x"), ("TWICE", "")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let missing = |name: &str| missing(&[name.to_owned()], &env);
        assert_eq!(missing("A"), None);
        assert_eq!(
            missing("EMPTY").unwrap(),
            "the variable EMPTY is required and empty"
        );
        assert_eq!(
            missing("TWICE").unwrap(),
            "the variable TWICE is required and empty"
        );
        assert_eq!(
            missing("B").unwrap(),
            "the variable B is required and not set"
        );
    }
}
