"""Networks: timm backbones with Re-ID pooling, stride and neck."""
