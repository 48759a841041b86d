"""Data as pure functions of a step, with readers and checks at the entry."""

from funcdl.data._batches import Batches as Batches
from funcdl.data._checks import DataError as DataError
from funcdl.data._checks import arrays as arrays
from funcdl.data._checks import check as check
from funcdl.data._csv import Table as Table
from funcdl.data._csv import csv as csv
from funcdl.data._datasets import Split as Split
from funcdl.data._datasets import digits as digits
from funcdl.data._datasets import mnist as mnist
from funcdl.data._datasets import unit_range as unit_range
from funcdl.data._formats import idx as idx
from funcdl.data._formats import npy as npy
from funcdl.data._formats import npz as npz
from funcdl.data._grain import from_grain as from_grain
from funcdl.data._images import Images as Images
from funcdl.data._images import image_folder as image_folder
from funcdl.data._images import image_stream as image_stream
from funcdl.data._lane_orders import Orders as Orders
from funcdl.data._lane_orders import PerLane as PerLane
from funcdl.data._lane_orders import orders as orders
from funcdl.data._parquet import parquet as parquet
from funcdl.data._parquet import parquet_stream as parquet_stream
from funcdl.data._preparation import Standardization as Standardization
from funcdl.data._preparation import split as split
from funcdl.data._preparation import standardize as standardize
from funcdl.data._stream import Stream as Stream
