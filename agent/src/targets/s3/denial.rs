//! What to do about a request that the server will not do, by the reason that it gives: its code, and the sentence in which AWS says whose
//! policy denied what. Where it gives none, nothing is made up.

use blat_domain::util::text::printable;

use super::fault::ErrorResponse;

/// What makes a bucket's policy refuse a write, as the block `s3` calls it.
const OF_WRITES: &str = "sse, kms_key_id, storage_class and acl";

/// What to do where the server names what is wrong beyond that it denies it.
pub(super) fn named(answer: &ErrorResponse) -> Option<String> {
    let ErrorResponse { code, message, action, .. } = answer;
    let message = message.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
    let advice = match &**code {
        "AccessControlListNotSupported" => "the bucket has no access control lists: remove acl",
        "InvalidStorageClass" => "the server does not have that storage class: correct storage_class",
        "InvalidEncryptionAlgorithmError" => "the server does not encrypt so: correct sse",
        code if code.starts_with("KMS.") && !answer.will_pass() => {
            "the key cannot be used: correct kms_key_id or the bucket's own key, which has to be enabled and in the bucket's region"
        }
        "InvalidArgument" | "InvalidRequest" | "NotImplemented"
            if has(&["server side encryption", "server-side-encryption", "kms"]) =>
        {
            "the server does not take how objects are to be encrypted: correct sse and kms_key_id"
        }
        "InvalidArgument" | "InvalidRequest" | "NotImplemented" if has(&["storage class", "storage-class"]) => {
            "the server does not take that storage class: correct storage_class"
        }
        "InvalidArgument" | "InvalidRequest" | "NotImplemented"
            if has(&["canned acl", "access control list", "x-amz-acl"]) =>
        {
            "the server does not take that access control list: correct acl"
        }
        "InvalidObjectState" => {
            "the object is in an archive: have it restored, and let no rule of the bucket archive packages"
        }
        "ObjectLocked" => {
            "a lock keeps the object: wait until it ends, or have the bucket lock nothing below the prefix"
        }
        "InvalidPayer" | "AccountProblem" | "AllAccessDisabled" | "NotSignedUp" => {
            "the server has closed the account or the bucket: ask whoever runs it"
        }
        "AccessDenied" if has(&["object lock", "worm protected"]) => {
            "a lock keeps the object: wait until it ends, or have the bucket lock nothing below the prefix"
        }
        "AccessDenied" if has(&["blockpublicacls", "public access control lists"]) => {
            "the bucket lets nothing become public: say another acl"
        }
        "AccessDenied" if has(&["requester pays"]) && *action != "sts:AssumeRoleWithWebIdentity" => {
            "whoever asks has to pay: say request_payer: requester"
        }
        _ => return None,
    };
    Some(advice.to_owned())
}

/// What to do about a denial.
pub(super) fn reason(answer: &ErrorResponse) -> String {
    let denied = AccessDenied::read(&answer.message);
    let named = denied.as_ref().map(|denied| denied.action).filter(|action| action.contains(':'));
    let action = printable(named.unwrap_or(answer.action));
    let allow = match &*action {
        key if key.starts_with("kms:") => {
            "let the credentials' policy and the key's own allow kms:GenerateDataKey and kms:Decrypt".to_owned()
        }
        "s3:PutObjectAcl" => "let it allow that, or remove acl".to_owned(),
        _ => "let it allow that".to_owned(),
    };
    match denied {
        Some(AccessDenied { by: By::Deny(policy), .. }) if action == "s3:PutObject" => {
            format!("{} denies {action}: change it, or say what it demands below s3: ({OF_WRITES})", printable(policy))
        }
        Some(AccessDenied { by: By::Deny(policy), .. }) => format!("{} denies {action}: change it", printable(policy)),
        Some(AccessDenied { by: By::Silence(policy), .. }) => {
            format!("no {} allows {action}: {allow}", printable(policy))
        }
        Some(AccessDenied { by: By::Unknown, .. }) if named.is_some() => {
            format!("the credentials are not allowed {action}: let their policy allow it")
        }
        Some(_) | None => {
            let may_be = match &*action {
                "s3:PutObject" => format!("and whether the bucket's demands {OF_WRITES}"),
                _ => "and whether the bucket's denies it or wants request_payer".to_owned(),
            };
            format!(
                "the credentials are not allowed {action}, and the server does not say why: look whether their policy allows it, {may_be}"
            )
        }
    }
}

/// What AWS says of a denial: `User: … is not authorized to perform: ACTION on resource: … with an explicit deny in a POLICY`, or `because no
/// POLICY allows the ACTION action`.
struct AccessDenied<'a> {
    action: &'a str,
    by: By<'a>,
}

/// Whose word it is.
enum By<'a> {
    /// This policy denies it.
    Deny(&'a str),
    /// No such policy allows it.
    Silence(&'a str),
    Unknown,
}

impl<'a> AccessDenied<'a> {
    fn read(message: &'a str) -> Option<Self> {
        let (_, rest) = message.split_once("is not authorized to perform: ")?;
        let action = rest.split_whitespace().next()?.trim_end_matches(['.', ',']);
        let between = |from: &str, to: &[char]| {
            let (_, policy) = rest.split_once(from)?;
            Some(policy.split(to).next().unwrap_or_default().trim()).filter(|policy| !policy.is_empty())
        };
        let silent = || between("because no ", &['.', ':'])?.split(" allow").next();
        let by = match between("with an explicit deny in ", &['.', ':', ';']) {
            Some(policy) => By::Deny(policy),
            None => silent().map_or(By::Unknown, By::Silence),
        };
        Some(Self { action, by })
    }
}

#[cfg(test)]
mod tests {
    use super::super::TargetError;
    use super::super::fault::Fault;
    use super::*;

    const WHO: &str = "User: arn:aws:iam::111122223333:user/blat is not authorized to perform:";
    const OBJECT: &str = "on resource: \"arn:aws:s3:::example-packages/dpkg_archive/core/1.zip\"";

    fn answer(status: u16, code: &str, message: &str, action: &'static str) -> ErrorResponse {
        ErrorResponse { status, code: code.into(), message: message.into(), action, region: None }
    }

    fn advice(status: u16, code: &str, message: &str, action: &'static str) -> String {
        match TargetError::from(Fault::Answered(answer(status, code, message, action))) {
            TargetError::Operator(text) => text,
            other => panic!("{code} {message} is for an operator: {other}"),
        }
    }

    #[test]
    fn a_denial_advises_by_the_reason_that_the_server_gives() {
        let (put, get) = ("s3:PutObject", "s3:GetObject");
        for (action, message, said) in [
            (
                put,
                format!("{WHO} s3:PutObject {OBJECT} because no identity-based policy allows the s3:PutObject action"),
                "; no identity-based policy allows s3:PutObject: let it allow that",
            ),
            (
                put,
                format!("{WHO} s3:PutObject {OBJECT} with an explicit deny in a resource-based policy"),
                "; a resource-based policy denies s3:PutObject: change it, or say what it demands below s3: (sse, kms_key_id, storage_class and acl)",
            ),
            (
                get,
                format!(
                    "{WHO} s3:GetObject {OBJECT} with an explicit deny in a service control policy: arn:aws:organizations::1:policy/x"
                ),
                "; a service control policy denies s3:GetObject: change it",
            ),
            (
                get,
                format!("{WHO} s3:GetObject {OBJECT} because no VPC endpoint policy allows the s3:GetObject action."),
                "; no VPC endpoint policy allows s3:GetObject: let it allow that",
            ),
            (
                put,
                format!(
                    "{WHO} kms:GenerateDataKey on resource: arn:aws:kms:x:1:key/2 because no resource-based policy allows the kms:GenerateDataKey action"
                ),
                "; no resource-based policy allows kms:GenerateDataKey: let the credentials' policy and the key's own allow kms:GenerateDataKey and kms:Decrypt",
            ),
            (
                put,
                format!(
                    "{WHO} s3:PutObjectAcl {OBJECT} because no identity-based policy allows the s3:PutObjectAcl action"
                ),
                "; no identity-based policy allows s3:PutObjectAcl: let it allow that, or remove acl",
            ),
            (
                put,
                format!("{WHO} s3:PutObject on resource: x"),
                "; the credentials are not allowed s3:PutObject: let their policy allow it",
            ),
        ] {
            let told = advice(403, "AccessDenied", &message, action);
            assert!(told.ends_with(said), "{told}");
        }
    }

    #[test]
    fn a_denial_without_a_reason_is_no_guess() {
        for (status, code, message) in
            [(403, "", ""), (403, "AccessDenied", "Access Denied"), (200, "AccessDenied", "no")]
        {
            let told = advice(status, code, message, "s3:PutObject");
            assert!(told.contains("not allowed s3:PutObject, and the server does not say why"), "{told}");
            assert!(told.ends_with("whether the bucket's demands sse, kms_key_id, storage_class and acl"), "{told}");
            let told = advice(status, code, message, "s3:ListBucket");
            assert!(
                told.contains("s3:ListBucket, and the server does not say why") && told.ends_with("request_payer"),
                "{told}"
            );
        }
    }

    #[test]
    fn what_the_server_names_is_what_has_to_be_corrected() {
        let put = "s3:PutObject";
        for (status, code, message, said) in [
            (400, "AccessControlListNotSupported", "The bucket does not allow ACLs", "remove acl"),
            (400, "InvalidStorageClass", "The storage class you specified is not valid", "correct storage_class"),
            (400, "InvalidEncryptionAlgorithmError", "x", "correct sse"),
            (400, "KMS.NotFoundException", "Invalid arn", "correct kms_key_id"),
            (400, "KMS.DisabledException", "x", "has to be enabled"),
            (
                400,
                "InvalidArgument",
                "Server Side Encryption with AWS KMS managed key requires HTTP header x-amz-server-side-encryption : aws:kms",
                "correct sse and kms_key_id",
            ),
            (
                501,
                "NotImplemented",
                "Server side encryption specified but KMS is not configured",
                "correct sse and kms_key_id",
            ),
            (403, "InvalidObjectState", "The operation is not valid for the object's storage class", "restored"),
            (400, "ObjectLocked", "Object is WORM protected and cannot be overwritten", "a lock keeps the object"),
            (403, "AccessDenied", "Access Denied because object protected by object lock.", "a lock keeps the object"),
            (
                403,
                "AccessDenied",
                "User: x is not authorized to perform: s3:PutObject because public access control lists (ACLs) are prevented by the BlockPublicAcls setting",
                "say another acl",
            ),
            (
                403,
                "AccessDenied",
                "Bucket is Requester Pays bucket but no requester pays header",
                "request_payer: requester",
            ),
            (403, "AllAccessDisabled", "All access to this object has been disabled", "ask whoever runs it"),
        ] {
            let told = advice(status, code, message, put);
            assert!(told.contains(said) && !told.contains("not allowed"), "{told}");
            assert!(
                !answer(status, code, message, put).is_not_known(),
                "no condition is given up for {code} {message}"
            );
        }
        assert!(
            answer(501, "NotImplemented", "A header you provided implies functionality that is not implemented", put)
                .is_not_known()
        );
        let busy = answer(400, "ThrottlingException", "You have exceeded the rate at which you may call KMS", put);
        assert!(busy.will_pass(), "the keys' service is busy");
    }

    #[test]
    fn what_a_server_says_of_policies_is_short_and_printable() {
        let told = advice(
            403,
            "AccessDenied",
            &format!("{WHO} s3:\u{1b}x {OBJECT} because no {} allows", "p".repeat(5000)),
            "s3:GetObject",
        );
        assert!(told.len() < 1000 && !told.contains('\u{1b}'), "{told}");
    }
}
