"""Owns POST /v1/images/verify: whether a PNG is what its metadata says."""

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, File, Request, UploadFile

from app.answers import admit, loaded_version, unless_gone
from app.context import Ctx
from app.schemas import Verification
from app.verification import again, read_picture, verdict
from training.model.sampling import Classes, Pixels

router = APIRouter(prefix="/v1", tags=["images"])


@router.post("/images/verify")
async def verify_image(
    request: Request,
    ctx: Ctx,
    file: Annotated[UploadFile, File(description="A PNG as it was downloaded.")],
) -> Verification:
    """Render the image again and compare: `match`, the first difference, or `other certificate`."""
    # Read in the thread too: what waits for one stays in its temporary file.
    picture = await to_thread.run_sync(lambda: read_picture(file.file.read(), ctx.settings))
    loaded = await loaded_version(ctx, picture.claims.ref)
    ask = again(picture, loaded)

    def finish(images: Pixels, c: Classes) -> Verification:
        return verdict(picture, loaded, images[0])

    answer = ctx.batcher.submit(loaded, 1, ask.draw, finish, admit(request, ctx, 1).name)
    return await unless_gone(request, answer)
