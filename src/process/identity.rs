//! User, groups and umask.

use crate::error::{Context, Error, Result};
use crate::spec::User;
use crate::sys::process as sys;

/// Who the process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub umask: u32,
}

/// runc's umask where config.json has none.
const DEFAULT_UMASK: u32 = 0o022;

/// Reads `process.user`.
pub fn plan(user: &User) -> Result<Identity> {
    // 2^32 - 1 means "leave it" to the system calls, which would be root's own id.
    for (field, id) in [("uid", user.uid), ("gid", user.gid)] {
        if id == u32::MAX {
            return Err(Error::new(format!("{id} is no {field}")).pointer(format!("/process/user/{field}")));
        }
    }
    let umask = user.umask.unwrap_or(DEFAULT_UMASK);
    if umask > 0o7777 {
        return Err(Error::new(format!("{umask:#o} is no umask")).pointer("/process/user/umask"));
    }
    Ok(Identity { uid: user.uid, gid: user.gid, groups: user.additional_gids.clone(), umask })
}

impl Identity {
    /// Becomes that user. Capabilities that are permitted stay so, for [`super::capability`] to reduce.
    pub fn apply(&self, may_set_groups: bool) -> Result<()> {
        if may_set_groups {
            sys::set_groups(&self.groups)
                .context(|| "cannot set the supplementary groups")
                .map_err(|error| error.pointer("/process/user/additionalGids"))?;
        } else if !self.groups.is_empty() {
            return Err(Error::new("supplementary groups cannot be set in this user namespace")
                .pointer("/process/user/additionalGids")
                .hint("its gid map was written without privileges; use newgidmap with /etc/subgid"));
        }
        sys::prctl(libc::PR_SET_KEEPCAPS, 1).context(|| "cannot keep the capabilities")?;
        let unmapped = "an id has to be mapped in the container's user namespace";
        sys::set_group_id(self.gid)
            .context(|| format!("cannot become group {}", self.gid))
            .map_err(|error| error.pointer("/process/user/gid").hint(unmapped))?;
        sys::set_user_id(self.uid)
            .context(|| format!("cannot become user {}", self.uid))
            .map_err(|error| error.pointer("/process/user/uid").hint(unmapped))?;
        sys::prctl(libc::PR_SET_KEEPCAPS, 0).context(|| "cannot stop keeping the capabilities")
    }
}
