"""The operations of OSCAR's interface."""

from __future__ import annotations

from gateway.openapi.model import BYTES, TEXT, Access, Body, Operation, Parameter, Reply
from gateway.oscar import bodies

_INCLUDE = Parameter(name="include", words=("deployment",), says="`deployment` adds the state of each service")
_PAGE = Parameter(name="page", says="token of the page before; empty = the first")
_LIMIT = Parameter(name="limit", kind="integer", low=1, high=1000)
_TIMES = Parameter(name="timestamps", kind="boolean", says="each line behind the time at which its attempt began")

_SYSTEM, _SERVICES, _BUCKETS, _JOBS, _INVOKE = "System", "Services", "Buckets of OSCAR", "Jobs", "Invocation"

OPERATIONS = (
    Operation(
        method="GET",
        path="/system/info",
        subject=_SYSTEM,
        says="Versions. `version` is the level of OSCAR's interface that is kept.",
        replies={200: Reply(says="Versions", kind=bodies.Info)},
    ),
    *(
        Operation(
            method="GET",
            path=path,
            subject=_SYSTEM,
            says="How the cluster is set up, and the caller's own account of the object store.",
            replies={200: Reply(says="Configuration", kind=bodies.Config)},
        )
        for path in ("/system/config", "/system/config/")
    ),
    Operation(
        method="GET",
        path="/system/status",
        subject=_SYSTEM,
        says="Machines for everybody; jobs, pods and buckets for the administrator.",
        replies={200: Reply(says="Status", kind=bodies.Status)},
    ),
    Operation(
        method="GET",
        path="/system/services",
        subject=_SERVICES,
        says="Every service that the caller may see.",
        query=(_INCLUDE,),
        replies={200: Reply(says="Services", kind=list[bodies.Service])},
    ),
    Operation(
        method="POST",
        path="/system/services",
        subject=_SERVICES,
        says="Create a service. Unknown fields are ignored, scalars are converted, keys may be in any case.",
        body=Body(kind=dict),
        errors=(404, 409, 422, 507),
        replies={201: Reply(says="Durable; `X-Penstock-Warnings` holds what was odd")},
    ),
    Operation(
        method="PUT",
        path="/system/services",
        subject=_SERVICES,
        says="Replace the service that `name` names. Blank secrets and `hidden` keys stay as they are.",
        body=Body(kind=dict),
        errors=(404, 409, 422, 507),
        replies={204: Reply(says="Durable")},
    ),
    Operation(
        method="GET",
        path="/system/services/{name}",
        subject=_SERVICES,
        says="One service.",
        query=(_INCLUDE,),
        errors=(400, 404),
        replies={200: Reply(says="The service", kind=bodies.Service)},
    ),
    Operation(
        method="DELETE",
        path="/system/services/{name}",
        subject=_SERVICES,
        says="Delete a service; its work is cancelled, its buckets and objects stay.",
        errors=(400, 404),
        replies={204: Reply(says="Deleted")},
    ),
    Operation(
        method="GET",
        path="/system/services/{name}/deployment",
        subject=_SERVICES,
        says="Whether a service can take work, and if not why.",
        errors=(400, 404),
        replies={200: Reply(says="The state", kind=bodies.Deployment)},
    ),
    Operation(
        method="GET",
        path="/system/buckets",
        subject=_BUCKETS,
        says="Every bucket that the caller may read.",
        replies={200: Reply(says="Buckets", kind=list[bodies.Bucket])},
    ),
    Operation(
        method="POST",
        path="/system/buckets",
        subject=_BUCKETS,
        says="Create a bucket; `bucket_name` may be `bucket/folder`.",
        body=Body(kind=bodies.BucketOrder),
        errors=(409, 422, 507),
        replies={201: Reply(says="Created")},
    ),
    Operation(
        method="PUT",
        path="/system/buckets",
        subject=_BUCKETS,
        says="Change who else may use a bucket.",
        body=Body(kind=bodies.BucketOrder),
        errors=(404, 507),
        replies={204: Reply(says="Changed")},
    ),
    Operation(
        method="GET",
        path="/system/buckets/{bucket}",
        subject=_BUCKETS,
        says="A bucket and a page of its objects.",
        query=(_PAGE, _LIMIT),
        errors=(400, 404),
        replies={200: Reply(says="A page", kind=bodies.BucketPage)},
    ),
    Operation(
        method="DELETE",
        path="/system/buckets/{bucket}",
        subject=_BUCKETS,
        says="Delete a bucket with everything in it, unless a service uses it.",
        errors=(404, 409),
        replies={204: Reply(says="Deleted")},
    ),
    Operation(
        method="POST",
        path="/system/buckets/{bucket}/presign",
        subject=_BUCKETS,
        says="A link to one object that needs no credential.",
        body=Body(kind=bodies.PresignOrder),
        errors=(404,),
        replies={200: Reply(says="The link", kind=bodies.Presigned)},
    ),
    Operation(
        method="GET",
        path="/system/logs/{name}",
        subject=_JOBS,
        says="A page of a service's jobs, newest first: all for its owner, one's own for others.",
        query=(
            _PAGE,
            _LIMIT,
            Parameter(name="status", words=("Pending", "Running", "Succeeded", "Failed", "Suspended")),
            Parameter(name="since_ms", kind="integer", low=0, says="queued at or after"),
            Parameter(name="until_ms", kind="integer", low=0, says="queued before"),
        ),
        errors=(400, 404),
        replies={200: Reply(says="Jobs", kind=bodies.JobList)},
    ),
    Operation(
        method="DELETE",
        path="/system/logs/{name}",
        subject=_JOBS,
        says="Take succeeded jobs off the list, with `all` every one; what has not ended is cancelled.",
        query=(Parameter(name="all", kind="boolean"),),
        errors=(400, 404),
        replies={204: Reply(says="Done")},
    ),
    Operation(
        method="GET",
        path="/system/logs/{name}/{job}",
        subject=_JOBS,
        says="What a job's script wrote.",
        query=(
            _TIMES,
            Parameter(name="follow", kind="boolean", says="go on to the end of the job"),
            Parameter(name="tail", kind="integer", low=0, high=1_000_000, says="the last lines only"),
        ),
        errors=(400, 404),
        replies={200: Reply(says="Text", media=TEXT)},
    ),
    Operation(
        method="DELETE",
        path="/system/logs/{name}/{job}",
        subject=_JOBS,
        says="Take a job off the list and delete its log; what has not ended is cancelled.",
        errors=(400, 404),
        replies={204: Reply(says="Done")},
    ),
    Operation(
        method="POST",
        path="/job/{name}",
        subject=_INVOKE,
        says="Post a body to a function; answers when it is durable. Any bytes, whatever their label.",
        access=Access.INVOKE,
        body=Body(media=BYTES, needed=False),
        errors=(404, 429, 507),
        replies={201: Reply(says="Accepted; `Location` leads to the job", kind=bodies.Accepted)},
    ),
    Operation(
        method="POST",
        path="/run/{name}",
        subject=_INVOKE,
        says="Post a body to a function and wait for its answer.",
        access=Access.INVOKE,
        body=Body(media=BYTES, needed=False),
        errors=(404, 429, 500, 504, 507),
        replies={200: Reply(says="The function's own answer; `X-Penstock-Job` names the job", media=TEXT)},
    ),
)
