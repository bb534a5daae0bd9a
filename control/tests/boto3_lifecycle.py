"""Every operation of the Cloud Map API through boto3. Usage: boto3_lifecycle.py URL before|after STATE_FILE"""

import json
import sys
import time
import urllib.error
import urllib.request

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

URL, PHASE, STATE = sys.argv[1:4]
sd = boto3.client(
    "servicediscovery",
    endpoint_url=URL,
    region_name="us-east-1",
    aws_access_key_id="any",
    aws_secret_access_key="any",
    config=Config(inject_host_prefix=False, retries={"total_max_attempts": 1}, parameter_validation=False),
)


def refused(code, call, naming=None, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        found = error.response["Error"]
        assert found["Code"] == code, f"{found} is not {code}"
        assert naming is None or naming in found["Message"], f"{found} does not name {naming}"
        assert error.response["ResponseMetadata"]["RequestId"], error.response
        return error.response
    raise AssertionError(f"{code} expected from {arguments}")


def raw(target, body, headers=()):
    headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": target, **dict(headers)}
    request = urllib.request.Request(URL, data=body, headers=headers, method="POST")
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, json.loads(response.read() or b"{}"), response.headers
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read()), error.headers


def snapshot():
    """Everything a client can read, in a comparable order."""
    seen = {"namespaces": pages("list_namespaces", "Namespaces"), "services": {}, "operations": []}
    for service in pages("list_services", "Services"):
        found = sd.get_service(Id=service["Id"])["Service"]
        status = {}
        for page in sd_pages("get_instances_health_status", ServiceId=service["Id"]):
            status.update(page["Status"])
        seen["services"][service["Id"]] = {
            "service": found,
            "attributes": sd.get_service_attributes(ServiceId=service["Id"])["ServiceAttributes"],
            "instances": pages("list_instances", "Instances", ServiceId=service["Id"]),
            "health": status,
        }
    for operation in pages("list_operations", "Operations"):
        seen["operations"].append(sd.get_operation(OperationId=operation["Id"])["Operation"])
    return json.loads(json.dumps(seen, default=str, sort_keys=True))


def sd_pages(operation, **arguments):
    if sd.can_paginate(operation):
        yield from sd.get_paginator(operation).paginate(PaginationConfig={"PageSize": 2}, **arguments)
        return
    token = {}
    while True:
        page = getattr(sd, operation)(MaxResults=2, **token, **arguments)
        yield page
        if "NextToken" not in page:
            return
        token = {"NextToken": page["NextToken"]}


def pages(operation, key, **arguments):
    return [item for page in sd_pages(operation, **arguments) for item in page[key]]


def namespaces():
    operation = sd.create_http_namespace(Name="shop", CreatorRequestId="c1", Description="d", Tags=[{"Key": "a", "Value": "b"}])
    done = sd.get_operation(OperationId=operation["OperationId"])["Operation"]
    assert (done["Type"], done["Status"]) == ("CREATE_NAMESPACE", "SUCCESS"), done
    assert abs(done["CreateDate"].timestamp() - time.time()) < 60, done
    shop = done["Targets"]["NAMESPACE"]
    again = sd.create_http_namespace(Name="shop", CreatorRequestId="c1", Description="d", Tags=[{"Key": "a", "Value": "b"}])
    assert again["OperationId"] == operation["OperationId"], "the same CreatorRequestId is the same call"
    exists = refused("NamespaceAlreadyExists", sd.create_http_namespace, Name="shop", CreatorRequestId="c2")
    assert exists["NamespaceId"] == shop and exists["CreatorRequestId"] == "c1", exists

    found = sd.get_namespace(Id=shop)["Namespace"]
    assert found["Name"] == "shop" and found["Type"] == "HTTP" and found["Description"] == "d", found
    assert found["Properties"]["HttpProperties"]["HttpName"] == "shop" and found["ServiceCount"] == 0, found
    assert sd.get_namespace(Id=found["Arn"])["Namespace"] == found, "an ARN is an id"
    for name in ["b", "c", "d", "shelf"]:
        sd.create_http_namespace(Name=name)
    names = [row["Name"] for row in pages("list_namespaces", "Namespaces")]
    assert sorted(names) == ["b", "c", "d", "shelf", "shop"], names

    def filtered(**filter):
        return sorted(row["Name"] for row in sd.list_namespaces(Filters=[filter])["Namespaces"])

    assert filtered(Name="NAME", Values=["shop"]) == ["shop"]
    assert filtered(Name="HTTP_NAME", Values=["sh"], Condition="BEGINS_WITH") == ["shelf", "shop"]
    assert filtered(Name="TYPE", Values=["DNS_PUBLIC"]) == []
    assert filtered(Name="NAME", Values=["b", "c"], Condition="IN") == ["b", "c"]
    assert len(filtered(Name="RESOURCE_OWNER", Values=["SELF"])) == 5
    refused("InvalidInput", sd.list_namespaces, "Filters[0].Name", Filters=[{"Name": "COLOUR", "Values": ["red"]}])
    refused("InvalidInput", sd.list_namespaces, "Filters[0].Values", Filters=[{"Name": "NAME", "Values": []}])
    refused("InvalidInput", sd.list_namespaces, "NextToken", NextToken="nonsense")
    refused("InvalidInput", sd.list_namespaces, "MaxResults", MaxResults=101)
    refused("InvalidInput", sd.create_http_namespace, "Name", Name="with space")
    refused("InvalidInput", sd.create_http_namespace, "Name", Name="arn:x")
    refused("InvalidInput", sd.create_http_namespace, "Description", Name="e", Description="x" * 1025)
    refused("InvalidInput", sd.create_http_namespace, "Tags[0].Key", Name="e", Tags=[{"Value": "v"}])
    refused("TooManyTagsException", sd.create_http_namespace, "Tags", Name="e", Tags=[{"Key": str(k), "Value": ""} for k in range(51)])
    refused("NamespaceNotFound", sd.get_namespace, "ns-none", Id="ns-none")
    shelf = filtered_id("shelf")
    assert sd.get_operation(OperationId=sd.delete_namespace(Id=shelf)["OperationId"])["Operation"]["Type"] == "DELETE_NAMESPACE"
    refused("NamespaceNotFound", sd.delete_namespace, Id=shelf)
    return shop


def filtered_id(name):
    return sd.list_namespaces(Filters=[{"Name": "NAME", "Values": [name]}])["Namespaces"][0]["Id"]


def services(shop):
    made = sd.create_service(Name="orders", NamespaceId=shop, CreatorRequestId="s1", HealthCheckCustomConfig={"FailureThreshold": 1}, Type="HTTP")["Service"]
    assert made["NamespaceId"] == shop and made["InstanceCount"] == 0 and made["HealthCheckCustomConfig"] == {"FailureThreshold": 1}, made
    again = sd.create_service(Name="orders", NamespaceId=shop, CreatorRequestId="s1", HealthCheckCustomConfig={"FailureThreshold": 1})["Service"]
    assert again["Id"] == made["Id"], "the same CreatorRequestId is the same call"
    exists = refused("ServiceAlreadyExists", sd.create_service, Name="orders", NamespaceId=shop)
    assert exists["ServiceId"] == made["Id"] and exists["ServiceArn"] == made["Arn"], exists
    assert sd.get_service(Id=made["Arn"])["Service"] == made
    for name in ["a", "b", "c"]:
        sd.create_service(Name=name, NamespaceId=shop)
    other = sd.create_service(Name="orders", NamespaceId=filtered_id("b"))["Service"]["Id"]
    names = [row["Name"] for row in pages("list_services", "Services", Filters=[{"Name": "NAMESPACE_ID", "Values": [shop]}])]
    assert sorted(names) == ["a", "b", "c", "orders"], names
    assert other not in [row["Id"] for row in pages("list_services", "Services", Filters=[{"Name": "NAMESPACE_ID", "Values": [shop]}])]
    checked = sd.create_service(Name="checked", NamespaceId=shop, HealthCheckConfig={"Type": "HTTP", "ResourcePath": "/up", "FailureThreshold": 3})["Service"]
    assert checked["HealthCheckConfig"] == {"Type": "HTTP", "ResourcePath": "/up", "FailureThreshold": 3}, checked

    refused("ResourceInUse", sd.delete_namespace, Id=shop)
    refused("NamespaceNotFound", sd.create_service, Name="x", NamespaceId="ns-none")
    refused("InvalidInput", sd.create_service, "NamespaceId", Name="x")
    refused("InvalidInput", sd.create_service, "Name", Name="-x", NamespaceId=shop)
    refused("InvalidInput", sd.create_service, "Type", Name="x", NamespaceId=shop, Type="DNS")
    refused("InvalidInput", sd.create_service, "DnsConfig", Name="x", NamespaceId=shop, DnsConfig={"DnsRecords": []})
    refused("InvalidInput", sd.create_service, "HealthCheckCustomConfig.FailureThreshold", Name="x", NamespaceId=shop, HealthCheckCustomConfig={"FailureThreshold": 11})
    refused("InvalidInput", sd.create_service, "HealthCheckCustomConfig", Name="x", NamespaceId=shop, HealthCheckCustomConfig={}, HealthCheckConfig={"Type": "TCP"})
    refused("ServiceNotFound", sd.get_service, Id="srv-none")
    assert sd.delete_service(Id=other)["ResponseMetadata"]["HTTPStatusCode"] == 200
    refused("ServiceNotFound", sd.delete_service, Id=other)
    return made["Id"]


def attributes(shop, orders):
    def of(service):
        return sd.get_service_attributes(ServiceId=service)["ServiceAttributes"]["Attributes"]

    sd.update_service_attributes(ServiceId=orders, Attributes={"team": "blue", "tier": "1"})
    sd.update_service_attributes(ServiceId=orders, Attributes={"tier": "2"})
    assert of(orders) == {"team": "blue", "tier": "2"}, of(orders)
    sd.delete_service_attributes(ServiceId=orders, Attributes=["tier", "not-there"])
    assert of(orders) == {"team": "blue"}, of(orders)
    declared = {"OUTRIGGER_ALIAS": "orders:80", "OUTRIGGER_APP_PROTOCOL": "http"}
    sd.update_service_attributes(ServiceId=orders, Attributes={**declared, "OUTRIGGER_REVISION": "r1", "OUTRIGGER_IDLE_TIMEOUT": "60"})
    sd.update_service_attributes(ServiceId=orders, Attributes={**declared, "OUTRIGGER_REVISION": "r2"})
    sd.update_service_attributes(ServiceId=orders, Attributes={**declared, "OUTRIGGER_REVISION": "r1", "OUTRIGGER_IDLE_TIMEOUT": "60"})
    assert of(orders) == {**declared, "OUTRIGGER_REVISION": "r2", "team": "blue"}, "an older revision changes nothing"
    a = sd.list_services(Filters=[{"Name": "NAMESPACE_ID", "Values": [shop]}])["Services"]
    a = next(row["Id"] for row in a if row["Name"] == "a")
    refused("InvalidInput", sd.update_service_attributes, "orders", ServiceId=a, Attributes={"OUTRIGGER_ALIAS": "orders:80"})
    refused("InvalidInput", sd.update_service_attributes, "OUTRIGGER_ALIAS", ServiceId=a, Attributes={"OUTRIGGER_ALIAS": "localhost:80", "x": "y"})
    refused("InvalidInput", sd.update_service_attributes, "OUTRIGGER_APP_PROTOCOL", ServiceId=a, Attributes={"OUTRIGGER_APP_PROTOCOL": "auto"})
    for policy, naming in [
        ("{retry", "OUTRIGGER_POLICY: is not JSON"),
        ('{"colour": "red"}', "colour"),
        ('{"retry": {"num_retries": 11, "tries": 2}, "lb": "best"}', "retry.tries"),
        ('{"panic_threshold": 101, "slow_start": "0s"}', "slow_start"),
        ('{"health_check": {"path": "/%s"}}' % ("x" * 1024), "1024"),
    ]:
        refused("InvalidInput", sd.update_service_attributes, naming, ServiceId=a, Attributes={"OUTRIGGER_POLICY": policy})
    refused("InvalidInput", sd.update_service_attributes, "OUTRIGGER_RETRIES", ServiceId=a, Attributes={"OUTRIGGER_POLICY": "{}", "OUTRIGGER_RETRIES": "1"})
    assert of(a) == {}, "a refused update is not half applied"
    policy = '{"retry": {"num_retries": 0}, "outlier_detection": {"consecutive_gateway_failure": 3}}'
    sd.update_service_attributes(ServiceId=a, Attributes={"OUTRIGGER_POLICY": policy})
    assert of(a) == {"OUTRIGGER_POLICY": policy}, "a policy is kept as it was written"
    sd.delete_service_attributes(ServiceId=a, Attributes=["OUTRIGGER_POLICY"])
    refused("ServiceAttributesLimitExceededException", sd.update_service_attributes, ServiceId=a, Attributes={f"k{n}": "v" for n in range(31)})
    refused("InvalidInput", sd.update_service_attributes, "Attributes", ServiceId=a, Attributes={})
    refused("InvalidInput", sd.delete_service_attributes, "Attributes", ServiceId=a, Attributes=[])
    refused("ServiceNotFound", sd.get_service_attributes, ServiceId="srv-none")


def instances(orders):
    for number in range(5):
        operation = sd.register_instance(ServiceId=orders, InstanceId=f"task-{number}", CreatorRequestId=f"i{number}", Attributes={"AWS_INSTANCE_IPV4": f"10.0.0.{number}", "AWS_INSTANCE_PORT": "8080", "zone": "ab"[number % 2]})
    done = sd.get_operation(OperationId=operation["OperationId"])["Operation"]
    assert done["Type"] == "REGISTER_INSTANCE" and done["Targets"] == {"SERVICE": orders, "INSTANCE": "task-4"}, done
    found = sd.get_instance(ServiceId=orders, InstanceId="task-4")["Instance"]
    assert found["CreatorRequestId"] == "i4" and found["Attributes"]["AWS_INSTANCE_IPV4"] == "10.0.0.4", found
    assert [row["Id"] for row in pages("list_instances", "Instances", ServiceId=orders)] == [f"task-{n}" for n in range(5)]
    revision = sd.discover_instances_revision(NamespaceName="shop", ServiceName="orders")["InstancesRevision"]
    sd.update_instance_custom_health_status(ServiceId=orders, InstanceId="task-1", Status="UNHEALTHY")
    assert sd.discover_instances_revision(NamespaceName="shop", ServiceName="orders")["InstancesRevision"] == revision
    health = {}
    for page in sd_pages("get_instances_health_status", ServiceId=orders):
        health.update(page["Status"])
    assert health == {f"task-{n}": "UNHEALTHY" if n == 1 else "HEALTHY" for n in range(5)}, health
    assert sd.get_instances_health_status(ServiceId=orders, Instances=["task-1"])["Status"] == {"task-1": "UNHEALTHY"}

    def discover(**arguments):
        found = sd.discover_instances(NamespaceName="shop", ServiceName="orders", **arguments)
        assert found["InstancesRevision"] == revision, found
        return sorted(row["InstanceId"] for row in found["Instances"])

    assert discover() == ["task-0", "task-2", "task-3", "task-4"]
    assert discover(HealthStatus="UNHEALTHY") == ["task-1"]
    assert len(discover(HealthStatus="ALL")) == 5 and len(discover(MaxResults=2)) == 2
    assert discover(QueryParameters={"zone": "b"}, HealthStatus="ALL") == ["task-1", "task-3"]
    assert discover(OptionalParameters={"zone": "b"}) == ["task-3"]
    assert len(discover(OptionalParameters={"zone": "z"}, HealthStatus="ALL")) == 5

    gone = sd.deregister_instance(ServiceId=orders, InstanceId="task-0")["OperationId"]
    assert sd.get_operation(OperationId=gone)["Operation"]["Type"] == "DEREGISTER_INSTANCE"
    assert sd.discover_instances_revision(NamespaceName="shop", ServiceName="orders")["InstancesRevision"] > revision
    refused("InstanceNotFound", sd.get_instance, ServiceId=orders, InstanceId="task-0")
    refused("InstanceNotFound", sd.deregister_instance, ServiceId=orders, InstanceId="task-0")
    refused("InstanceNotFound", sd.get_instances_health_status, ServiceId=orders, Instances=["task-0"])
    refused("ResourceInUse", sd.delete_service, Id=orders)
    refused("InvalidInput", sd.register_instance, "InstanceId", ServiceId=orders, InstanceId="a b", Attributes={})
    refused("InvalidInput", sd.register_instance, "AWS_INSTANCE_IPV4", ServiceId=orders, InstanceId="x", Attributes={"AWS_INSTANCE_IPV4": "10.0.0.256"})
    refused("InvalidInput", sd.register_instance, "AWS_INSTANCE_PORT", ServiceId=orders, InstanceId="x", Attributes={"AWS_INSTANCE_PORT": "0"})
    refused("InvalidInput", sd.register_instance, "OUTRIGGER_PRIORITY", ServiceId=orders, InstanceId="x", Attributes={"OUTRIGGER_PRIORITY": "129"})
    refused("InvalidInput", sd.register_instance, "Attributes.k", ServiceId=orders, InstanceId="x", Attributes={"k": "v" * 1025})
    refused("ResourceLimitExceeded", sd.register_instance, ServiceId=orders, InstanceId="x", Attributes={f"k{n}": "v" for n in range(31)})
    refused("InvalidInput", sd.update_instance_custom_health_status, "Status", ServiceId=orders, InstanceId="task-1", Status="SICK")
    refused("InvalidInput", sd.discover_instances, "HealthStatus", NamespaceName="shop", ServiceName="orders", HealthStatus="SICK")
    refused("NamespaceNotFound", sd.discover_instances, NamespaceName="none", ServiceName="orders")
    refused("ServiceNotFound", sd.discover_instances_revision, NamespaceName="shop", ServiceName="none")
    refused("ServiceNotFound", sd.register_instance, ServiceId="srv-none", InstanceId="x", Attributes={})
    checkless = next(row["Id"] for row in sd.list_services()["Services"] if row["Name"] == "a")
    sd.register_instance(ServiceId=checkless, InstanceId="x", Attributes={"AWS_INSTANCE_CNAME": "db.example.com"})
    refused("CustomHealthNotFound", sd.update_instance_custom_health_status, ServiceId=checkless, InstanceId="x", Status="HEALTHY")
    assert sd.get_instances_health_status(ServiceId=checkless)["Status"] == {"x": "UNKNOWN"}


def operations(orders):
    everything = pages("list_operations", "Operations")
    assert len(everything) == len({row["Id"] for row in everything}) == 13, everything

    def filtered(*filters):
        return len(pages("list_operations", "Operations", Filters=list(filters)))

    assert filtered({"Name": "TYPE", "Values": ["CREATE_NAMESPACE"]}) == 5
    assert filtered({"Name": "SERVICE_ID", "Values": [orders]}, {"Name": "TYPE", "Values": ["REGISTER_INSTANCE"]}) == 5
    assert filtered({"Name": "STATUS", "Values": ["FAIL", "PENDING"], "Condition": "IN"}) == 0
    now = time.time()
    assert filtered({"Name": "UPDATE_DATE", "Values": [str(now - 60), str(now + 60)], "Condition": "BETWEEN"}) == 13
    assert filtered({"Name": "UPDATE_DATE", "Values": ["0", "1"], "Condition": "BETWEEN"}) == 0
    refused("OperationNotFound", sd.get_operation, OperationId="none")


def wire():
    status, body, headers = raw("Route53AutoNaming_v20170314.CreateMagic", b"{}")
    assert (status, body["__type"]) == (400, "UnknownOperationException"), body
    assert headers["x-amzn-RequestId"], headers
    assert raw("Other.ListNamespaces", b"{}")[1]["__type"] == "UnknownOperationException"
    for body in [b"{", b"[]", b"\xff"]:
        assert raw("Route53AutoNaming_v20170314.ListNamespaces", body)[1]["__type"] == "SerializationException"
    status, body, _ = raw("Route53AutoNaming_v20170314.ListNamespaces", b" " * (256 * 1024 + 1))
    assert (status, body["__type"]) == (413, "RequestEntityTooLargeException"), body
    assert raw("Route53AutoNaming_v20170314.GetNamespace", b'{"Id": 3}')[1] == {"__type": "InvalidInput", "Message": "Id: is not a string"}


if PHASE == "before":
    shop_id = namespaces()
    orders_id = services(shop_id)
    attributes(shop_id, orders_id)
    instances(orders_id)
    operations(orders_id)
    wire()
    with open(STATE, "w") as file:
        json.dump(snapshot(), file)
else:
    with open(STATE) as file:
        before = json.load(file)
    assert snapshot() == before, "a restart loses nothing"
print("ok")
