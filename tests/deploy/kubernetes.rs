//! The files for Kubernetes and compose: what they name is there and is what the program serves; and the
//! loop that writes roles to the labels of pods, with a real pair and a listener in place of Kubernetes' API.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;
use tandemd::admin::client::Client;

use crate::harness::{PATIENCE, wait_for};
use crate::setup;
use crate::support::{ROOT, Service, free_port, installed, run};

/// The documents of a file under `deploy/`, or nothing where YAML cannot be read.
fn documents(file: &str) -> Option<Vec<Value>> {
    let script = "import json,sys,yaml\nprint(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let mut python = Command::new("/usr/bin/python3");
    if !installed(&["python3"])
        || !Command::new("/usr/bin/python3").args(["-c", "import yaml"]).status().is_ok_and(|s| s.success())
    {
        eprintln!("SKIPPED: python3-yaml is not installed");
        return None;
    }
    let text = run(python.args(["-c", script, &format!("{ROOT}/deploy/{file}")]));
    Some(serde_json::from_str(&text).expect("JSON"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("a word, not {value}"))
}

/// Whether every label that is asked for is among those.
fn selects(selector: &Value, labels: &Value) -> bool {
    let wanted = selector.as_object().expect("a selector");
    !wanted.is_empty() && wanted.iter().all(|(name, value)| labels[name] == *value)
}

/// The objects of a kind.
fn of<'a>(all: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    all.iter().filter(move |object| object["kind"] == kind)
}

fn name(object: &Value) -> &str {
    word(&object["metadata"]["name"])
}

/// Labels of the pods, those included that Kubernetes itself and the loop of master-service.yaml write.
fn pods(all: &[Value]) -> Vec<Value> {
    let mut pods = Vec::new();
    for set in of(all, "StatefulSet") {
        for index in 0..set["spec"]["replicas"].as_u64().expect("a number") {
            for role in ["master", "backup"] {
                let mut labels = set["spec"]["template"]["metadata"]["labels"].clone();
                labels["statefulset.kubernetes.io/pod-name"] = format!("{}-{index}", name(set)).into();
                labels["tandem-role"] = role.into();
                pods.push(labels);
            }
        }
    }
    pods
}

/// A pod's volumes are there, and each is mounted somewhere.
fn check_volumes(all: &[Value], owner: &Value) {
    let pod = &owner["spec"]["template"]["spec"];
    let mounted: BTreeSet<&str> = list(&pod["containers"])
        .iter()
        .flat_map(|container| list(&container["volumeMounts"]))
        .map(|mount| word(&mount["name"]))
        .collect();
    let claims = list(&owner["spec"]["volumeClaimTemplates"]).iter().map(name);
    let volumes = list(&pod["volumes"]).iter().map(|volume| word(&volume["name"]));
    assert_eq!(mounted, claims.chain(volumes).collect(), "{}", name(owner));
    for map in list(&pod["volumes"]).iter().filter_map(|volume| volume["configMap"]["name"].as_str()) {
        assert!(of(all, "ConfigMap").any(|object| name(object) == map), "no ConfigMap {map}");
    }
    if let Some(account) = pod["serviceAccountName"].as_str() {
        assert!(of(all, "ServiceAccount").any(|object| name(object) == account), "no account {account}");
    }
}

#[test]
fn what_the_manifests_name_is_there() {
    let Some(mut all) = documents("kubernetes/tandem.yaml") else { return };
    all.extend(documents("kubernetes/master-service.yaml").expect("it can be read"));
    for object in &all {
        for part in ["apiVersion", "kind"] {
            assert!(object[part].is_string(), "{object}");
        }
    }
    let set = of(&all, "StatefulSet").next().expect("a StatefulSet");
    let template = &set["spec"]["template"];
    let container = &template["spec"]["containers"][0];
    let ports: Vec<(&str, u64)> = list(&container["ports"])
        .iter()
        .map(|port| (word(&port["name"]), port["containerPort"].as_u64().expect("a number")))
        .collect();
    assert_eq!(ports, [("memcached", 11211), ("replication", 11212), ("admin", 11213)]);
    assert_eq!(set["spec"]["replicas"], 2, "a pair");

    let pods = pods(&all);
    for service in of(&all, "Service") {
        let selector = &service["spec"]["selector"];
        assert!(pods.iter().any(|labels| selects(selector, labels)), "{} selects no pod", name(service));
        for port in list(&service["spec"]["ports"]) {
            let known = ports.iter().any(|(_, number)| port["port"].as_u64() == Some(*number));
            assert!(known, "{}: nobody listens on {port}", name(service));
        }
    }
    // Each pod's peer is the other one.
    for index in 0..2 {
        let service = of(&all, "Service").find(|service| name(service) == format!("peer-of-tandem-{index}"));
        let selector = &service.expect("a peer")["spec"]["selector"];
        assert_eq!(selector["statefulset.kubernetes.io/pod-name"], format!("tandem-{}", 1 - index));
    }
    let governs =
        of(&all, "Service").find(|service| service["metadata"]["name"] == set["spec"]["serviceName"]);
    let governs = governs.expect("the Service that gives pods their names");
    assert_eq!(governs["spec"]["clusterIP"], "None");
    assert_eq!(governs["spec"]["publishNotReadyAddresses"], true);

    let budget = of(&all, "PodDisruptionBudget").next().expect("a budget");
    assert_eq!(budget["spec"]["maxUnavailable"], 1);
    let apart =
        &template["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0];
    let policy = of(&all, "NetworkPolicy").next().expect("a policy");
    for selector in [&budget["spec"]["selector"], &apart["labelSelector"], &policy["spec"]["podSelector"]] {
        assert!(selects(&selector["matchLabels"], &template["metadata"]["labels"]), "{selector}");
    }
    for rule in list(&policy["spec"]["ingress"]) {
        for port in list(&rule["ports"]) {
            assert!(ports.iter().any(|(name, _)| port["port"] == *name), "{port}");
        }
    }
    for kind in ["StatefulSet", "Deployment"] {
        for owner in of(&all, kind) {
            let labels = &owner["spec"]["template"]["metadata"]["labels"];
            assert!(selects(&owner["spec"]["selector"]["matchLabels"], labels), "{}", name(owner));
            let pod = &owner["spec"]["template"]["spec"];
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
            assert_eq!(pod["enableServiceLinks"], false, "variables of Services look like settings");
            for container in list(&pod["containers"]) {
                assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
                assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
                assert!(container["resources"]["limits"]["memory"].is_string());
            }
            check_volumes(&all, owner);
        }
    }
    // The loop may change exactly the pods that there are, and asks them by their names.
    let rule = &of(&all, "Role").next().expect("a Role")["rules"][0];
    assert_eq!(rule["resourceNames"], serde_json::json!(["tandem-0", "tandem-1"]));
    let binding = of(&all, "RoleBinding").next().expect("a binding");
    assert_eq!(binding["roleRef"]["name"], "tandem-roles");
    let follower = of(&all, "Deployment").next().expect("the loop");
    let asked = word(&follower["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"]);
    let expected = [0, 1].map(|pod| format!("tandem-{pod}=tandem-{pod}.{}:11213", name(governs)));
    assert_eq!(asked, expected.join(" "));
}

/// The program takes the arguments of the manifest, and serves what the probes ask for.
#[test]
fn a_node_with_the_manifests_arguments_answers_its_probes() {
    let Some(all) = documents("kubernetes/tandem.yaml") else { return };
    let container =
        &of(&all, "StatefulSet").next().expect("a set")["spec"]["template"]["spec"]["containers"][0];
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let key = path("pair.key", "a key for this test only, of enough bytes\n");
    let token = path("admin-token", "token-of-this-test-of-enough-bytes\n");
    let (admin, client, link) = (free_port(), free_port(), free_port());
    let arguments: Vec<String> = list(&container["args"])
        .iter()
        .map(|argument| match word(argument) {
            "1024" => "16".to_owned(),
            "/var/lib/tandemd" => directory.path().join("state").display().to_string(),
            "peer-of-$(POD_NAME)" => "127.0.0.1".to_owned(),
            "/etc/tandem/pair.key" => key.clone(),
            "/etc/tandem/admin-token" => token.clone(),
            "0.0.0.0:11213" => format!("127.0.0.1:{admin}"),
            argument => argument.to_owned(),
        })
        .collect();
    let mut tandemd = Command::new(env!("CARGO_BIN_EXE_tandemd"));
    tandemd.args(&arguments).args(["-u", "root", "-I", "128k", "-l", "127.0.0.2"]);
    tandemd.args(["-p", &client.to_string(), "-X", &link.to_string()]);
    let _node = Service::start(&mut tandemd, directory.path(), "tandemd");
    let asks = Client::new(format!("127.0.0.1:{admin}"));
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let get = &container[probe]["httpGet"];
        assert_eq!(get["port"], "admin", "{probe}");
        // It is ready as soon as it serves alone.
        wait_for(probe, PATIENCE, || asks.page(word(&get["path"])).ok().filter(|(code, _)| *code == 200));
    }
    let container = documents("container/compose.yaml").expect("it can be read");
    for node in ["a", "b"] {
        let service = &container[0]["services"][node];
        assert!(
            container[0]["services"].get(word(&service["command"][5])).is_some(),
            "-x names the other one"
        );
        assert_eq!(service["read_only"], true);
        for secret in list(&service["secrets"]) {
            assert!(container[0]["secrets"].get(word(secret)).is_some(), "{secret}");
        }
    }
}

/// Takes requests to change an object; tells `PATH BODY` of each.
fn api() -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.expect("a connection"));
            let mut head = Vec::new();
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).expect("a line") == 0 || line.trim().is_empty() {
                    break;
                }
                head.push(line.trim().to_owned());
            }
            let length = head.iter().find_map(|line| line.strip_prefix("Content-Length: "));
            let length = length.and_then(|digits| digits.parse().ok()).unwrap_or(0);
            let mut body = vec![0; length];
            reader.read_exact(&mut body).expect("a body");
            assert!(head.iter().any(|line| line == "Authorization: Bearer secret"), "{head:?}");
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
            reader.get_mut().write_all(answer.as_bytes()).expect("an answer");
            if tell.send(format!("{} {}", head[0], String::from_utf8_lossy(&body))).is_err() {
                return;
            }
        }
    });
    (format!("http://{address}"), told)
}

#[test]
fn the_label_of_the_master_follows_the_role() {
    if !installed(&["curl", "python3"])
        || !Command::new("/usr/bin/python3").args(["-c", "import yaml"]).status().is_ok_and(|s| s.success())
    {
        eprintln!("SKIPPED: curl or python3-yaml is not installed");
        return;
    }
    let script = "import sys,yaml\nfor d in yaml.safe_load_all(open(sys.argv[1])):\n  if d['kind']=='ConfigMap': print(d['data']['follow'])";
    let manifest = format!("{ROOT}/deploy/kubernetes/master-service.yaml");
    let follow = run(Command::new("/usr/bin/python3").args(["-c", script, &manifest]));
    let directory = tempfile::tempdir().expect("a directory");
    let (file, token) = (directory.path().join("follow"), directory.path().join("token"));
    std::fs::write(&file, follow).expect("a file");
    std::fs::write(&token, "secret").expect("a file");

    let mut pair = setup().start();
    let master = pair.wait_paired();
    let (api, told) = api();
    let pods: Vec<String> =
        (0..2).map(|index| format!("tandem-{index}={}", pair.nodes[index].admin_address())).collect();
    let mut command = Command::new("sh");
    command.arg(&file).env("API", api).env("NAMESPACE", "cache").env("TOKEN", &token);
    command.env("CACERT", "--http1.1").env("PODS", pods.join(" "));
    let _loop = Service::start(&mut command, directory.path(), "follow");
    let wait_for_label = |pod: usize, role: &str| {
        let path = format!("PATCH /api/v1/namespaces/cache/pods/tandem-{pod} HTTP/1.1 ");
        let body = format!("{{\"metadata\":{{\"labels\":{{\"tandem-role\":\"{role}\"}}}}}}");
        let mut heard = Vec::new();
        loop {
            match told.recv_timeout(PATIENCE) {
                Ok(request) if request == format!("{path}{body}") => return,
                Ok(request) => heard.push(request),
                Err(_) => panic!("tandem-{pod} was never labelled {role}, but {heard:?}"),
            }
        }
    };
    wait_for_label(master, "master");
    pair.nodes[master].kill();
    wait_for_label(1 - master, "master");
}
