"""Caffe's file formats as protobuf messages: `caffe_pb2`, generated from caffe.proto."""

from caffe.proto import caffe_pb2

__all__ = ["caffe_pb2"]
