//! S3 services: s3s-fs and moto.

use bytes::Bytes;
use serde_json::json;
use taipan_mirrors::{Class, Location};
use taipan_tests::Moto;

use crate::{
    bucket::{self, BUCKET, Bucket, anonymous},
    contract::{Conditions, Place, refuses, serves, validates},
    fixtures,
    who::{ACCESS_KEY, SECRET_KEY, USER, WRONG},
};

#[tokio::test(flavor = "multi_thread")]
async fn s3s_serves_without_authentication() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join(BUCKET);
    for file in fixtures::all() {
        fixtures::write(&dir, &file);
    }
    let server = Bucket::serve(root.path(), None).await;
    let place = Place::new(anonymous(server.location()));
    serves(&place).await;
    // It sends entity tags and ignores conditions.
    validates(&place, Conditions::Ignored, async |file| {
        fixtures::write(&dir, file);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3s_serves_with_the_keys() {
    let root = tempfile::tempdir().unwrap();
    for file in fixtures::all() {
        fixtures::write(&root.path().join(BUCKET), &file);
    }
    let server = Bucket::serve(root.path(), Some((ACCESS_KEY, SECRET_KEY))).await;
    let location = || Location::S3(server.location());
    serves(&Place::with_keys(location(), ACCESS_KEY, SECRET_KEY)).await;
    let wrong = Place::with_keys(location(), ACCESS_KEY, WRONG);
    refuses(&wrong, Class::Denied, &[WRONG, SECRET_KEY]).await;
    // Without keys S3 responds with 403, as for a missing file.
    let nobody = Place::new(anonymous(server.location()));
    refuses(&nobody, Class::NotHere, &[SECRET_KEY]).await;
}

/// Moto with a bucket of the test files.
struct Cloud {
    moto: Moto,
    client: reqwest::Client,
}

impl Cloud {
    async fn start(access: &str) -> Option<Self> {
        let cloud = Self {
            moto: Moto::start()?,
            client: reqwest::Client::new(),
        };
        cloud.put("", Bytes::new(), "private").await;
        for file in fixtures::all() {
            cloud.file(&file, access).await;
        }
        Some(cloud)
    }

    async fn put(&self, key: &str, bytes: Bytes, access: &str) {
        let url = format!("{}/{BUCKET}/{key}", self.moto.endpoint());
        let request = self.client.put(url).body(bytes);
        let request = request.header("content-type", "application/octet-stream");
        let answer = request.header("x-amz-acl", access).send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
    }

    async fn file(&self, file: &fixtures::File, access: &str) {
        let key = file.target().path;
        self.put(&key, file.bytes.clone(), access).await;
    }

    /// Sends a POST request and returns the body of the response.
    async fn post(&self, path: &str, authorization: &str, kind: &str, body: &str) -> String {
        let request = self
            .client
            .post(format!("{}{path}", self.moto.endpoint()))
            .header("authorization", authorization)
            .header("content-type", kind)
            .body(body.to_owned());
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
        answer.text().await.unwrap()
    }

    /// Creates a user who may only read the bucket, enables authentication, and returns the user's keys.
    async fn enable_authentication(&self) -> (String, String) {
        // The scope of the signature names the service; signatures are not verified yet.
        let signature = "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/iam/aws4_request, \
                         SignedHeaders=host, Signature=0";
        let policy = json!({
            "Version": "2012-10-17",
            "Statement": [{
                "Effect": "Allow",
                "Action": ["s3:GetObject", "s3:ListBucket"],
                "Resource": "*",
            }],
        })
        .to_string();
        let calls: [&[(&str, &str)]; 3] = [
            &[("Action", "CreateUser")],
            &[
                ("Action", "PutUserPolicy"),
                ("PolicyName", "read"),
                ("PolicyDocument", &policy),
            ],
            &[("Action", "CreateAccessKey")],
        ];
        let mut answer = String::new();
        for call in calls {
            let mut form: reqwest::Url = "http://form".parse().unwrap();
            form.query_pairs_mut()
                .extend_pairs(call)
                .append_pair("UserName", USER)
                .append_pair("Version", "2010-05-08");
            let form = form.query().unwrap();
            let kind = "application/x-www-form-urlencoded";
            answer = self.post("/", signature, kind, form).await;
        }
        let value = |name: &str| {
            let (_, rest) = answer.split_once(&format!("<{name}>")).unwrap();
            rest.split_once('<').unwrap().0.to_owned()
        };
        let keys = (value("AccessKeyId"), value("SecretAccessKey"));
        // All following requests are verified.
        self.post("/moto-api/reset-auth", signature, "text/plain", "0")
            .await;
        keys
    }

    fn location(&self) -> Location {
        Location::S3(bucket::location(&self.moto.endpoint()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn moto_serves_public_files_without_authentication() {
    let Some(cloud) = Cloud::start("public-read").await else {
        return;
    };
    let location = bucket::location(&cloud.moto.endpoint());
    let place = Place::new(anonymous(location));
    serves(&place).await;
    validates(&place, Conditions::Kept, async |file| {
        cloud.file(file, "public-read").await;
    })
    .await;
    for file in [fixtures::large(), fixtures::note()] {
        cloud.file(&file, "private").await;
    }
    refuses(&place, Class::NotHere, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn moto_serves_with_the_keys() {
    let Some(cloud) = Cloud::start("private").await else {
        return;
    };
    let (access, secret) = cloud.enable_authentication().await;
    serves(&Place::with_keys(cloud.location(), &access, &secret)).await;
    for (access, wrong) in [(access.as_str(), WRONG), (ACCESS_KEY, SECRET_KEY)] {
        let place = Place::with_keys(cloud.location(), access, wrong);
        refuses(&place, Class::Denied, &[wrong, &secret]).await;
    }
}
