"""Limits: what an upload may cost. Every limit has a name and a stated reason."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


class Limits(BaseModel):
    """The limits on an upload. The defaults fit ImageNet-sized data and every common image classifier."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    upload_bytes: int = Field(
        4 * GIB, gt=0, description="Size of an uploaded file: weights of a 1e9-parameter network."
    )
    expanded_bytes: int = Field(
        16 * GIB, gt=0, description="Size of all that an archive expands to, and of the stored data set."
    )
    ratio: int = Field(
        200,
        gt=0,
        description="Expanded size over compressed size of one member; deflate reaches 1032, MNIST 5, drawings 50.",
    )
    ratio_from_bytes: int = Field(
        16 * MIB,
        gt=0,
        description="Smaller members may exceed the ratio: the sorted labels of a million images do, and cost nothing.",
    )
    members: int = Field(2_000_000, gt=0, description="Entries of an archive; ImageNet has 1.3 million images.")
    name_length: int = Field(500, gt=0, description="Characters of an entry's name, longer than any honest path.")
    image_bytes: int = Field(
        256 * MIB, gt=0, description="Size of one image file, an uncompressed one of image_pixels."
    )
    image_pixels: int = Field(50_000_000, gt=0, description="Pixels of one image: 200 MB when decoded with alpha.")
    row_bytes: int = Field(
        64 * MIB,
        gt=0,
        description="Size of one image of an array: 4,700 x 4,700 pixels of three bytes, 1,600 x 1,600 of 24.",
    )
    samples: int = Field(10_000_000, gt=0, description="Images of a data set; labels and hashes are kept in memory.")
    classes: int = Field(100_000, gt=0, description="Classes of a data set, the most that an architecture may have.")
    tensors: int = Field(
        100_000, gt=0, description="Tensors of a weights file; the largest classifiers have thousands."
    )
    header_bytes: int = Field(
        16 * MIB, gt=0, description="Size of a safetensors header; that of a classifier is below 1 MB."
    )
    pickle_bytes: int = Field(
        4 * MIB,
        gt=0,
        description="Size of the pickle that names the tensors: 200 bytes for each, below 1 MB; it grows to 64 times its "
        "size in memory when it is hostile.",
    )
    batch_bytes: int = Field(
        512 * MIB, gt=0, description="Size of a pickled batch of images: CIFAR-100's 50,000 take 155 MB."
    )
