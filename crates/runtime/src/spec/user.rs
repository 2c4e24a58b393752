//! Who a container's process is: the image's user resolved in the image's own account files.

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct UserRequest<'a> {
    /// `USER` of the image: empty, `name`, `uid`, `name:group`, `uid:gid`.
    pub(crate) image_user: &'a str,
    /// The pod's user.
    pub(crate) uid: Option<i64>,
    /// The pod's group.
    pub(crate) gid: Option<i64>,
    /// The pod's additional groups.
    pub(crate) groups: &'a [i64],
}

/// Who the process is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Additional groups, sorted.
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        Some(Account {
            name: fields.first()?,
            uid: fields.get(2)?.parse().ok()?,
            gid: fields.get(3)?.parse().ok()?,
            home: fields.get(5).copied().unwrap_or_default(),
        })
    })
}

fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

/// Resolves the user with the content of the image's `/etc/passwd` and `/etc/group`. The error is what a user reads.
pub(crate) fn resolve_user(request: &UserRequest<'_>, passwd: &str, group: &str) -> Result<Identity, String> {
    let (user, group_name) = match request.image_user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (request.image_user, None),
    };
    let number = |value: i64| u32::try_from(value).map_err(|_| format!("invalid user or group id {value}"));
    let account = match (request.uid, user.parse::<u32>()) {
        (Some(uid), _) => {
            let uid = number(uid)?;
            accounts(passwd).find(|account| account.uid == uid).ok_or(uid)
        }
        (None, _) if user.is_empty() => accounts(passwd).find(|account| account.uid == 0).ok_or(0),
        (None, Ok(uid)) => accounts(passwd).find(|account| account.uid == uid).ok_or(uid),
        (None, Err(_)) => Ok(accounts(passwd)
            .find(|account| account.name == user)
            .ok_or_else(|| format!("unable to find user {user}: no matching entries in passwd file"))?),
    };
    let (uid, mut gid, name, home) = match account {
        Ok(account) => (account.uid, account.gid, account.name, account.home),
        Err(uid) => (uid, 0, "", ""),
    };
    if let Some(wanted) = group_name
        && request.uid.is_none()
    {
        gid = match wanted.parse() {
            Ok(gid) => gid,
            Err(_) => groups(group)
                .find(|(name, ..)| *name == wanted)
                .map(|(_, gid, _)| gid)
                .ok_or_else(|| format!("unable to find group {wanted}: no matching entries in group file"))?,
        };
    }
    if let Some(wanted) = request.gid {
        gid = number(wanted)?;
    }
    let mut additional = vec![gid];
    if !name.is_empty() {
        let member = groups(group).filter(|(_, _, members)| members.split(',').any(|member| member == name));
        additional.extend(member.map(|(_, gid, _)| gid));
    }
    for extra in request.groups {
        additional.push(number(*extra)?);
    }
    additional.sort_unstable();
    additional.dedup();
    let home = match (home, uid) {
        ("", 0) => "/root",
        ("", _) => "/",
        (home, _) => home,
    };
    Ok(Identity { uid, gid, groups: additional, home: home.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\nbroken\n";
    const GROUP: &str = "root:x:0:\napp:x:1001:\nvideo:x:44:app,other\n";

    fn resolve(image_user: &str, uid: Option<i64>, gid: Option<i64>) -> Result<(u32, u32, Vec<u32>, String), String> {
        let request = UserRequest { image_user, uid, gid, groups: &[7] };
        resolve_user(&request, PASSWD, GROUP).map(|id| (id.uid, id.gid, id.groups, id.home))
    }

    #[test]
    fn user_is_resolved_in_the_image() {
        let app = |gid, groups: &[u32]| Ok((1000, gid, groups.to_vec(), "/home/app".to_owned()));
        assert_eq!(resolve("app", None, None), app(1001, &[7, 44, 1001]));
        assert_eq!(resolve("1000", None, None), app(1001, &[7, 44, 1001]));
        assert_eq!(resolve("app:video", None, None), app(44, &[7, 44]));
        assert_eq!(resolve("app:5", None, None), app(5, &[5, 7, 44]));
        assert_eq!(resolve("", Some(1000), Some(9)), app(9, &[7, 9, 44]));
        assert_eq!(resolve("", None, None), Ok((0, 0, vec![0, 7], "/root".to_owned())));
        assert_eq!(resolve("4242", None, None), Ok((4242, 0, vec![0, 7], "/".to_owned())));
    }

    #[test]
    fn unknown_names_are_named() {
        assert_eq!(
            resolve("nobody", None, None).unwrap_err(),
            "unable to find user nobody: no matching entries in passwd file"
        );
        assert!(resolve("app:none", None, None).unwrap_err().contains("group none"));
        assert!(resolve("", Some(-1), None).unwrap_err().contains("-1"));
    }
}
