"""The messages of `afdp.signer.v1`, generated into `afdp.pb` with their service, under a shorter path."""

from afdp.pb.afdp.signer.v1 import *
from afdp.pb.stubs.signer import *
