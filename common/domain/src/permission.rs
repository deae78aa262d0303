//! What callers may do: permissions, and who holds each.
//!
//! Each route names the permission that it needs, in the API's `router.rs`. [`Permission::holders`]
//! is the only table of who holds what. `docs/permissions.md` shows it, and tests check it whole.

use strum::VariantArray;

/// What a route needs of its caller.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, strum::EnumString, strum::IntoStaticStr, strum::VariantArray,
)]
pub enum Permission {
    /// Read jobs, and download what they delivered.
    #[strum(serialize = "jobs:read")]
    JobsRead,
    /// Submit and cancel jobs.
    #[strum(serialize = "jobs:write")]
    JobsWrite,
    /// Read uploads.
    #[strum(serialize = "uploads:read")]
    UploadsRead,
    /// Upload files and delete them.
    #[strum(serialize = "uploads:write")]
    UploadsWrite,
    /// Read the balance and the statement of credits.
    #[strum(serialize = "credits:read")]
    CreditsRead,
    /// Read how much storage is in use.
    #[strum(serialize = "storage:read")]
    StorageRead,
    /// Read how long files are kept, and the receipts of deletions.
    #[strum(serialize = "retention:read")]
    RetentionRead,
    /// Set how long files are kept.
    #[strum(serialize = "retention:write")]
    RetentionWrite,
    /// List API keys.
    #[strum(serialize = "keys:read")]
    KeysRead,
    /// Create, rotate and revoke API keys. A new key holds no more than its maker.
    #[strum(serialize = "keys:write")]
    KeysWrite,
    /// Read jobs, pauses, workers and operators' actions of the whole installation.
    #[strum(serialize = "operations:read")]
    OperationsRead,
    /// Pause, redrive and cancel jobs of any tenant.
    #[strum(serialize = "operations:write")]
    OperationsWrite,
    /// Freeze wallets of any tenant, and give or take credits.
    #[strum(serialize = "operations:money")]
    OperationsMoney,
}

/// What a person is in a tenant, or in the installation.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, strum::EnumString, strum::IntoStaticStr, strum::VariantArray,
)]
#[strum(serialize_all = "snake_case")]
pub enum Role {
    /// Owns the tenant. Each tenant has at least one owner.
    Owner,
    /// Manages the tenant, but not its owners.
    Admin,
    /// Works with jobs and uploads.
    Member,
    /// Pays, and sees what is charged, but not what is made.
    Billing,
    /// Sees jobs and uploads, and changes nothing.
    Viewer,
    /// Runs the installation.
    Operator,
    /// Sees what operators see, and changes nothing.
    Auditor,
}

/// The text names no permission that an API key can hold.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("use one of {}", scope_names())]
pub struct NoScope;

/// Whether API keys hold a permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyAccess {
    /// Every key holds it whose scopes were not chosen, and every key whose scopes name it.
    ByDefault,
    /// Only a key whose scopes name it holds it.
    IfNamed,
    /// No key can hold it.
    Never,
}

/// Who holds a permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holders {
    /// The roles that hold it.
    pub roles: &'static [Role],
    /// Whether API keys hold it.
    pub keys: KeyAccess,
}

impl Permission {
    /// Every permission.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The name in the API, such as `jobs:read`.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Who holds this permission.
    pub const fn holders(self) -> Holders {
        use KeyAccess::{ByDefault, IfNamed, Never};
        use Role::{Admin, Auditor, Billing, Member, Operator, Owner, Viewer};
        let (roles, keys): (&[Role], _) = match self {
            Self::JobsRead | Self::UploadsRead => (&[Owner, Admin, Member, Viewer], ByDefault),
            Self::JobsWrite | Self::UploadsWrite => (&[Owner, Admin, Member], ByDefault),
            Self::CreditsRead | Self::StorageRead | Self::RetentionRead => {
                (&[Owner, Admin, Member, Billing, Viewer], ByDefault)
            }
            Self::RetentionWrite => (&[Owner, Admin], ByDefault),
            Self::KeysRead | Self::KeysWrite => (&[Owner, Admin], IfNamed),
            Self::OperationsRead => (&[Operator, Auditor], Never),
            Self::OperationsWrite | Self::OperationsMoney => (&[Operator], Never),
        };
        Holders { roles, keys }
    }

    /// Parses a scope: the name of a permission that an API key can hold.
    ///
    /// # Errors
    /// Returns [`NoScope`], which lists all scopes, if there is no such permission, or if no key can
    /// hold it.
    pub fn parse_scope(name: &str) -> Result<Self, NoScope> {
        let permission = name.parse().map_err(|_| NoScope)?;
        let is_grantable = Permissions::grantable_to_keys().contain(permission);
        is_grantable.then_some(permission).ok_or(NoScope)
    }

    /// The bit of this permission in a set.
    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

impl Role {
    /// Every role.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The name in the database and in the API.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Whether the role is in the whole installation, and not in one tenant.
    pub fn is_of_installation(self) -> bool {
        matches!(self, Self::Operator | Self::Auditor)
    }
}

/// A set of permissions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permissions(u32);

impl Permissions {
    /// What a role holds.
    pub fn of_role(role: Role) -> Self {
        Self::filter(|permission| permission.holders().roles.contains(&role))
    }

    /// What an API key holds if its scopes were not chosen.
    pub fn of_keys() -> Self {
        Self::filter(|permission| permission.holders().keys == KeyAccess::ByDefault)
    }

    /// Every permission that an API key can hold.
    pub fn grantable_to_keys() -> Self {
        Self::filter(|permission| permission.holders().keys != KeyAccess::Never)
    }

    /// The permissions of the set, in the order of [`Permission::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        let all = Permission::ALL.iter().copied();
        all.filter(move |&permission| self.contain(permission))
    }

    /// The first permission of the set that the other set lacks.
    pub fn first_missing_in(self, other: Self) -> Option<Permission> {
        self.iter().find(|&permission| !other.contain(permission))
    }

    /// Whether the set contains this permission.
    pub fn contain(self, permission: Permission) -> bool {
        self.0 & permission.bit() != 0
    }

    /// What is in both sets.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The permissions that pass this test.
    fn filter(is_held: impl Fn(Permission) -> bool) -> Self {
        let held = Permission::ALL.iter().copied();
        held.filter(|&permission| is_held(permission)).collect()
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<T: IntoIterator<Item = Permission>>(permissions: T) -> Self {
        let bits = permissions.into_iter().map(Permission::bit);
        Self(bits.fold(0, |set, bit| set | bit))
    }
}

/// The names of everything that a key can hold, for messages.
pub fn scope_names() -> String {
    let scopes = Permissions::grantable_to_keys().iter();
    scopes
        .map(Permission::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_of_a_tenant_holds_nothing_of_the_installation() {
        for &permission in Permission::ALL {
            let of_installation = permission.as_str().starts_with("operations:");
            let holders = permission.holders();
            for role in holders.roles {
                assert_eq!(role.is_of_installation(), of_installation, "{permission:?}");
            }
            let never = holders.keys == KeyAccess::Never;
            assert_eq!(never, of_installation, "{permission:?}");
        }
    }

    #[test]
    fn owners_hold_everything_of_their_tenant() {
        let owner = Permissions::of_role(Role::Owner);
        for &role in Role::ALL.iter().filter(|role| !role.is_of_installation()) {
            let held = Permissions::of_role(role);
            assert_eq!(held.first_missing_in(owner), None, "{role:?}");
        }
        assert_eq!(
            Permissions::grantable_to_keys().first_missing_in(owner),
            None
        );
    }

    #[test]
    fn who_only_looks_holds_no_permission_to_write() {
        for role in [Role::Viewer, Role::Auditor, Role::Billing] {
            let held = Permissions::of_role(role);
            let written = Permission::ALL.iter().filter(|permission| {
                held.contain(**permission) && !permission.as_str().ends_with(":read")
            });
            assert_eq!(written.count(), 0, "{role:?}");
        }
    }

    #[test]
    fn names_can_be_parsed_again() {
        for permission in Permission::ALL {
            assert_eq!(permission.as_str().parse(), Ok(*permission));
        }
        for role in Role::ALL {
            assert_eq!(role.as_str().parse(), Ok(*role));
        }
    }
}
