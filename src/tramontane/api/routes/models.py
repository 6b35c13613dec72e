"""/cloud/v1/models"""

from typing import Annotated

from fastapi import Query

from tramontane.api import views
from tramontane.api.access import requires
from tramontane.api.routes.declared import RefInPath, Using, guarded_router
from tramontane.domain.tenancy import Permission, Principal
from tramontane.wire import cloud_replies as replies
from tramontane.wire import cloud_requests as requests

router = guarded_router("models")
Reader = Annotated[Principal, requires(Permission.MODELS_READ)]
Writer = Annotated[Principal, requires(Permission.MODELS_WRITE)]


@router.get("", operation_id="models_list")
def list_models(
    principal: Reader, services: Using, query: Annotated[requests.PageQuery, Query()]
) -> replies.Page[replies.Model]:
    """List the catalogue, each model with its newest version."""
    found = services.models.list(after=query.after, limit=query.limit)
    return views.page(found, lambda entry: views.model(entry, principal))


@router.post("", operation_id="models_import", status_code=201)
def import_model(
    principal: Writer, services: Using, body: requests.ImportModel
) -> replies.ModelDetail:
    """Import weights that lie on this server: a GGUF file or a folder of safetensors files.

    Answers when all of them were read, about a second for each gigabyte. Weights that the model
    has already change nothing; others become its newest version. Pickles are refused. A LoRA
    adapter names the model that it was made for, and is refused if it does not fit it.
    """
    entry = services.models.import_weights(
        principal,
        name=body.name,
        path=body.path,
        digest=body.digest,
        licence=body.licence,
        base=body.base,
    )
    return views.model_detail(entry, principal)


@router.get("/{model}", operation_id="models_get")
def get_model(principal: Reader, services: Using, model: RefInPath) -> replies.ModelDetail:
    """Return one model with all its versions."""
    return views.model_detail(services.models.get(model), principal)


@router.delete("/{model}", operation_id="models_delete")
def delete_model(principal: Writer, services: Using, model: RefInPath) -> replies.Deleted:
    """Take a model out of the catalogue; its files stay. Refused while it is deployed."""
    gone = services.models.delete(principal, model)
    return replies.Deleted(object="model", id=gone.id)
