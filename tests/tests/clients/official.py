"""The official Python client in the scenarios that its users have: typed, dynamic, watching, paging, patching."""

import sys
import threading
import time

from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.rest import ApiException
from kubernetes.leaderelection import leaderelection
from kubernetes.leaderelection.electionconfig import Config
from kubernetes.leaderelection.resourcelock.configmaplock import ConfigMapLock

config.load_kube_config(sys.argv[1])
core, apps, extensions = client.CoreV1Api(), client.AppsV1Api(), client.ApiextensionsV1Api()
NAMESPACE = "python"


def refused(code, act):
    try:
        act()
    except ApiException as error:
        assert error.status == code, (error.status, error.body)
        return error
    raise AssertionError(f"was not refused with {code}")


def typed():
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
    body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="a", labels={"set": "x"}), data={"k": "v"})
    made = core.create_namespaced_config_map(NAMESPACE, body)
    assert made.metadata.uid and made.metadata.resource_version
    refused(409, lambda: core.create_namespaced_config_map(NAMESPACE, body))
    made.data = {"k": "w"}
    changed = core.replace_namespaced_config_map("a", NAMESPACE, made)
    refused(409, lambda: core.replace_namespaced_config_map("a", NAMESPACE, made))
    assert changed.metadata.creation_timestamp == made.metadata.creation_timestamp
    patched = core.patch_namespaced_config_map("a", NAMESPACE, {"data": {"more": "1"}})
    assert patched.data == {"k": "w", "more": "1"}
    patched = core.patch_namespaced_config_map("a", NAMESPACE, [{"op": "remove", "path": "/data/more"}])
    assert patched.data == {"k": "w"}
    refused(404, lambda: core.read_namespaced_config_map("none", NAMESPACE))
    error = refused(422, lambda: core.create_namespaced_config_map(
        NAMESPACE, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="Not a name"))))
    assert "metadata.name" in error.body


def pages():
    for number in range(25):
        core.create_namespaced_secret(NAMESPACE, client.V1Secret(metadata=client.V1ObjectMeta(name=f"s{number:02}")))
    names, token = [], None
    while True:
        page = core.list_namespaced_secret(NAMESPACE, limit=10, _continue=token)
        names += [item.metadata.name for item in page.items]
        token = page.metadata._continue
        if not token:
            break
        assert page.metadata.remaining_item_count == 25 - len(names)
    assert names == [f"s{number:02}" for number in range(25)], names
    core.delete_collection_namespaced_secret(NAMESPACE)
    assert not core.list_namespaced_secret(NAMESPACE).items


def watches():
    version = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version

    def write():
        core.create_namespaced_config_map(NAMESPACE, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="watched")))
        core.patch_namespaced_config_map("watched", NAMESPACE, {"data": {"a": "b"}})
        core.delete_namespaced_config_map("watched", NAMESPACE)

    writer = threading.Thread(target=write)
    writer.start()
    seen = []
    stream = watch.Watch()
    for event in stream.stream(core.list_namespaced_config_map, NAMESPACE, resource_version=version,
                               field_selector="metadata.name=watched", timeout_seconds=60):
        seen.append(event["type"])
        if event["type"] == "DELETED":
            stream.stop()
    writer.join()
    assert seen == ["ADDED", "MODIFIED", "DELETED"], seen


def custom_resources():
    schema = {"type": "object", "properties": {
        "spec": {"type": "object", "properties": {"size": {"type": "integer", "maximum": 9, "default": 3}}},
        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}}
    extensions.create_custom_resource_definition(client.V1CustomResourceDefinition(
        metadata=client.V1ObjectMeta(name="things.example.org"),
        spec=client.V1CustomResourceDefinitionSpec(
            group="example.org", scope="Namespaced",
            names=client.V1CustomResourceDefinitionNames(plural="things", kind="Thing"),
            versions=[client.V1CustomResourceDefinitionVersion(
                name="v1", served=True, storage=True, subresources={"status": {}},
                schema={"openAPIV3Schema": schema})])))
    deadline = time.monotonic() + 60
    while True:
        found = extensions.read_custom_resource_definition("things.example.org")
        if any(c.type == "Established" and c.status == "True" for c in found.status.conditions or []):
            break
        assert time.monotonic() < deadline, found.status
        time.sleep(0.05)
    api = dynamic.DynamicClient(client.ApiClient())
    things = api.resources.get(api_version="example.org/v1", kind="Thing")
    body = {"apiVersion": "example.org/v1", "kind": "Thing", "metadata": {"name": "t"}, "spec": {}}
    made = things.create(body=body, namespace=NAMESPACE)
    assert made.spec.size == 3
    applied = things.server_side_apply(body={**body, "spec": {"size": 5}}, name="t", namespace=NAMESPACE,
                                       field_manager="py", force_conflicts=True)
    assert applied.spec.size == 5
    assert any(m.manager == "py" and m.operation == "Apply" for m in applied.metadata.managedFields)
    things.status.patch(body={"status": {"ready": True}}, name="t", namespace=NAMESPACE,
                        content_type="application/merge-patch+json")
    assert things.get(name="t", namespace=NAMESPACE).status.ready is True
    try:
        things.patch(body={"spec": {"size": 10}}, name="t", namespace=NAMESPACE,
                     content_type="application/merge-patch+json")
        raise AssertionError("10 is more than 9")
    except dynamic.exceptions.UnprocessibleEntityError as error:
        assert "spec.size in body should be less than or equal to 9" in str(error.body), error.body
    things.delete(name="t", namespace=NAMESPACE)


def manifests():
    utils.create_from_dict(client.ApiClient(), {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": NAMESPACE},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}},
                 "template": {"metadata": {"labels": {"app": "web"}},
                              "spec": {"containers": [{"name": "web", "image": "x"}]}}}})
    scale = apps.read_namespaced_deployment_scale("web", NAMESPACE)
    assert scale.spec.replicas == 2
    apps.patch_namespaced_deployment_scale("web", NAMESPACE, {"spec": {"replicas": 1}})
    assert apps.read_namespaced_deployment("web", NAMESPACE).spec.replicas == 1
    apps.delete_namespaced_deployment("web", NAMESPACE, propagation_policy="Foreground")


def leader():
    led = threading.Event()
    election = Config(ConfigMapLock("leader", NAMESPACE, "one"), lease_duration=3, renew_deadline=2, retry_period=1,
                      onstarted_leading=led.set, onstopped_leading=lambda: None)
    threading.Thread(target=leaderelection.LeaderElection(election).run, daemon=True).start()
    assert led.wait(60), "nobody leads"


def reviews():
    access = client.AuthorizationV1Api().create_self_subject_access_review(client.V1SelfSubjectAccessReview(
        spec=client.V1SelfSubjectAccessReviewSpec(
            resource_attributes=client.V1ResourceAttributes(verb="get", resource="pods", namespace=NAMESPACE))))
    assert access.status.allowed
    token = core.create_namespaced_service_account_token("default", NAMESPACE, client.AuthenticationV1TokenRequest(
        spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=3600)))
    review = client.AuthenticationV1Api().create_token_review(client.V1TokenReview(
        spec=client.V1TokenReviewSpec(token=token.status.token)))
    assert review.status.user.username == f"system:serviceaccount:{NAMESPACE}:default", review.status
    assert client.VersionApi().get_code().major == "1"


for scenario in (typed, pages, watches, custom_resources, manifests, leader, reviews):
    scenario()
    print("passed:", scenario.__name__)
core.delete_namespace(NAMESPACE)
