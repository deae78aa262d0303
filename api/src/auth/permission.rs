//! Which permission a route needs. The line of the route in `router.rs` says it; the extractor of
//! the caller checks it.

use std::sync::Arc;

use axum::Extension;
use axum::http::request::Parts;
use domain::permission::{Permission, Permissions};
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa_axum::router::UtoipaMethodRouter;

use crate::app::App;
use crate::error::{Code, Problem};

/// The member of an operation in `/openapi.json` that names the permission.
const MEMBER: &str = "x-permission";

/// Routes whose callers need this permission.
pub fn needs(
    permission: Permission,
    (schemas, mut paths, methods): UtoipaMethodRouter<Arc<App>>,
) -> UtoipaMethodRouter<Arc<App>> {
    for operation in paths.paths.values_mut().flat_map(operations) {
        let member = Extensions::from_iter([(MEMBER, permission.as_str())]);
        operation.extensions.get_or_insert_default().merge(member);
    }
    (schemas, paths, methods.route_layer(Extension(permission)))
}

fn operations(path: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let methods = [
        &mut path.get,
        &mut path.put,
        &mut path.post,
        &mut path.delete,
        &mut path.patch,
    ];
    methods.into_iter().flatten()
}

/// Checks that a caller holds the permission of the route.
///
/// # Errors
/// Returns [`Code::Forbidden`] if it does not.
pub(super) fn check(parts: &Parts, held: Permissions) -> Result<(), Problem> {
    let Some(&needed) = parts.extensions.get::<Permission>() else {
        tracing::error!(path = parts.uri.path(), "A route names no permission");
        return Err(Code::Internal.into());
    };
    if held.contain(needed) {
        return Ok(());
    }
    let name = needed.as_str();
    let detail = format!("This needs the permission `{name}`, which you do not hold.");
    Err(forbidden(needed, detail))
}

/// Makes a problem of [`Code::Forbidden`], which names the permission that is missing.
pub fn forbidden(missing: Permission, detail: String) -> Problem {
    Problem::new(Code::Forbidden, detail).with("permission", missing.as_str())
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn parts(permission: Option<Permission>) -> Parts {
        let (mut parts, ()) = Request::new(()).into_parts();
        if let Some(permission) = permission {
            parts.extensions.insert(permission);
        }
        parts
    }

    #[test]
    fn only_who_holds_the_permission_may_call() {
        let held = Permissions::from_iter([Permission::JobsRead]);
        assert!(check(&parts(Some(Permission::JobsRead)), held).is_ok());
        let refused = check(&parts(Some(Permission::JobsWrite)), held).unwrap_err();
        assert_eq!(refused.code(), Code::Forbidden);
    }

    #[test]
    fn a_route_without_a_permission_answers_nobody() {
        let refused = check(&parts(None), Permissions::of_keys()).unwrap_err();
        assert_eq!(refused.code(), Code::Internal);
    }
}
