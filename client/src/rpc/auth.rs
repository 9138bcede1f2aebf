//! Users, roles and the switch (behaviour.md §7).

use kvd_proto::etcdserverpb::auth_client::AuthClient;
use kvd_proto::etcdserverpb::{
    AuthDisableRequest, AuthDisableResponse, AuthEnableRequest, AuthEnableResponse,
    AuthRoleAddRequest, AuthRoleAddResponse, AuthRoleDeleteRequest, AuthRoleDeleteResponse,
    AuthRoleGetRequest, AuthRoleGetResponse, AuthRoleGrantPermissionRequest,
    AuthRoleGrantPermissionResponse, AuthRoleListRequest, AuthRoleListResponse,
    AuthRoleRevokePermissionRequest, AuthRoleRevokePermissionResponse, AuthStatusRequest,
    AuthStatusResponse, AuthUserAddRequest, AuthUserAddResponse, AuthUserChangePasswordRequest,
    AuthUserChangePasswordResponse, AuthUserDeleteRequest, AuthUserDeleteResponse,
    AuthUserGetRequest, AuthUserGetResponse, AuthUserGrantRoleRequest, AuthUserGrantRoleResponse,
    AuthUserListRequest, AuthUserListResponse, AuthUserRevokeRoleRequest,
    AuthUserRevokeRoleResponse, AuthenticateRequest, AuthenticateResponse,
};

use super::unary;
use crate::attempts::{ANSWER_BYTES_MAX, Call};
use crate::client::Client;
use crate::error::Error;

unary! { AuthClient:
    /// Asks for credentials from now on.
    writes auth_enable(AuthEnableRequest) -> AuthEnableResponse;
    /// Asks for none.
    writes auth_disable(AuthDisableRequest) -> AuthDisableResponse;
    /// Whether credentials are asked for.
    reads auth_status(AuthStatusRequest) -> AuthStatusResponse;
    /// Exchanges a password for a token.
    reads authenticate(AuthenticateRequest) -> AuthenticateResponse;
    /// Adds a user.
    writes user_add(AuthUserAddRequest) -> AuthUserAddResponse;
    /// The roles of a user.
    reads user_get(AuthUserGetRequest) -> AuthUserGetResponse;
    /// All users.
    reads user_list(AuthUserListRequest) -> AuthUserListResponse;
    /// Deletes a user.
    writes user_delete(AuthUserDeleteRequest) -> AuthUserDeleteResponse;
    /// Gives a user another password.
    writes user_change_password(AuthUserChangePasswordRequest) -> AuthUserChangePasswordResponse;
    /// Gives a user a role.
    writes user_grant_role(AuthUserGrantRoleRequest) -> AuthUserGrantRoleResponse;
    /// Takes a role from a user.
    writes user_revoke_role(AuthUserRevokeRoleRequest) -> AuthUserRevokeRoleResponse;
    /// Adds a role.
    writes role_add(AuthRoleAddRequest) -> AuthRoleAddResponse;
    /// What a role may do.
    reads role_get(AuthRoleGetRequest) -> AuthRoleGetResponse;
    /// All roles.
    reads role_list(AuthRoleListRequest) -> AuthRoleListResponse;
    /// Deletes a role.
    writes role_delete(AuthRoleDeleteRequest) -> AuthRoleDeleteResponse;
    /// Allows a role something.
    writes role_grant_permission(AuthRoleGrantPermissionRequest) -> AuthRoleGrantPermissionResponse;
    /// Forbids a role something again.
    writes role_revoke_permission(AuthRoleRevokePermissionRequest) -> AuthRoleRevokePermissionResponse;
}
