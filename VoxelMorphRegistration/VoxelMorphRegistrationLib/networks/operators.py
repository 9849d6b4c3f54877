"""The operators of PyTorch that a registration network may use: pure arithmetic on tensors, numbers and lists.

Left out are those that open, write or share files (save, from_file), that look beyond a tensor's own numbers
(as_strided, set_, resize_, data), that start other code or other computers (rpc, wait), and what is not needed.
"""

from __future__ import annotations

_CONVOLUTIONS = """
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution _convolution linear bilinear
    matmul mm bmm mv dot addmm addmv addbmm baddbmm einsum tensordot inner outer scaled_dot_product_attention
    pixel_shuffle pixel_unshuffle channel_shuffle unfold im2col col2im embedding one_hot _weight_norm
    norm_except_dim
"""
_NORMS = """
    batch_norm instance_norm group_norm layer_norm rms_norm native_layer_norm native_group_norm native_batch_norm
    norm frobenius_norm renorm
"""
_ACTIVATIONS = """
    relu relu_ relu6 relu6_ leaky_relu leaky_relu_ prelu rrelu rrelu_ elu elu_ selu selu_ celu celu_ gelu gelu_ silu
    silu_ mish mish_ sigmoid sigmoid_ tanh tanh_ hardtanh hardtanh_ hardsigmoid hardsigmoid_ hardswish hardswish_
    hardshrink softshrink softplus softmax log_softmax _softmax log_sigmoid glu threshold threshold_ dropout
    dropout_ alpha_dropout_ alpha_dropout feature_dropout feature_dropout_ feature_alpha_dropout
    feature_alpha_dropout_ native_dropout
"""
_POOLING = """
    max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d max_unpool2d max_unpool3d upsample_nearest1d upsample_nearest2d
    upsample_nearest3d upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d __interpolate
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d _upsample_lanczos2d_aa
    _upsample_bilinear2d_aa _upsample_bicubic2d_aa __upsample_nearest __upsample_bilinear __upsample grid_sampler
    grid_sampler_2d grid_sampler_3d affine_grid_generator _grid_sampler_2d_cpu_fallback
"""
_SHAPES = """
    cat concat concatenate stack hstack vstack dstack column_stack chunk split split_with_sizes tensor_split
    unsafe_chunk unsafe_split unbind narrow select slice index index_select index_put index_put_ index_fill
    index_fill_ index_add index_add_ index_copy index_copy_ gather scatter scatter_ scatter_add scatter_add_
    take_along_dim scatter_reduce masked_fill masked_fill_ masked_select masked_scatter where nonzero nonzero_numpy
    argwhere select_scatter slice_scatter view view_as reshape reshape_as flatten unflatten ravel permute transpose
    transpose_ swapaxes swapdims moveaxis movedim t numpy_T mT squeeze squeeze_ unsqueeze unsqueeze_ expand
    expand_as broadcast_to broadcast_tensors repeat repeat_interleave tile roll flip fliplr flipud rot90 pad
    constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
    replication_pad3d _pad_circular contiguous clone detach detach_ meshgrid cartesian_prod atleast_1d atleast_2d
    atleast_3d diag diagonal diag_embed tril triu tril_indices triu_indices sort argsort topk unique_consecutive
    _unique2 searchsorted bucketize copy_ alias lift_fresh lift
"""
_NUMBERS = """
    add add_ sub sub_ subtract mul mul_ multiply div div_ divide true_divide floor_divide floordiv remainder fmod
    mathremainder divmod rsub neg neg_ negative pow pow_ square square_ sqrt sqrt_ rsqrt rsqrt_ reciprocal
    reciprocal_ exp exp_ exp2 expm1 log log_ log2 log10 log1p logaddexp logsumexp abs abs_ absolute sign sgn sin cos
    tan asin acos atan atan2 arctan2 sinh cosh sinc deg2rad rad2deg degrees radians erf erfc erfinv floor floor_
    ceil ceil_ round round_ trunc trunc_ fix frac clamp clamp_ clamp_min clamp_min_ clamp_max clamp_max_ clip clip_
    lerp lerp_ addcmul addcmul_ addcdiv addcdiv_ hypot max min maximum minimum fmax fmin amax amin aminmax argmax
    argmin sum mean median nanmean nansum std var std_mean var_mean prod cumsum cumprod cummax cummin quantile all
    any count_nonzero diff gradient cross cdist dist pairwise_distance cosine_similarity det inverse trace cholesky
    linalg_inv linalg_det linalg_norm linalg_vector_norm linalg_matrix_norm linalg_solve linalg_cross linalg_svd
    linalg_qr linalg_eigh matrix_exp linalg_matrix_exp svd fft_fft fft_ifft fft_fft2 fft_ifft2 fft_fftn fft_ifftn
    fft_rfft fft_irfft fft_rfftn fft_irfftn fft_fftshift fft_ifftshift fft_fftfreq fft_rfftfreq view_as_real
    view_as_complex real imag conj resolve_conj eq ne lt le gt ge equal isclose allclose isnan isinf isfinite
    nan_to_num nan_to_num_ logical_and logical_or logical_not logical_xor bitwise_and bitwise_or bitwise_not
    bitwise_xor __and__ __or__ __xor__ __iand__ __ior__ __is__ __isnot__ __not__ __lshift__ __rshift__ xlogy
    heaviside trapezoid histc mse_loss l1_loss smooth_l1_loss huber_loss
"""
_MAKING = """
    zeros zeros_like ones ones_like full full_like empty empty_like new_zeros new_ones new_full new_empty arange
    linspace logspace eye tensor as_tensor scalar_tensor zero_ fill fill_ fill_diagonal_ normal_ uniform_ rand
    rand_like randn randn_like randint randint_like randperm bernoulli bernoulli_ hann_window hamming_window
    blackman_window kaiser_window bartlett_window
"""
_FACTS = """
    size dim numel len stride is_contiguous is_floating_point is_complex is_grad_enabled set_grad_enabled
    requires_grad_ is_autocast_enabled is_autocast_cpu_enabled result_type promote_types can_cast to type_as device
    cpu cuda item is_nonzero _shape_as_tensor _unwrap_optional Bool Int Float Complex IntImplicit FloatImplicit
    ScalarImplicit ComplexImplicit is_scripting has_torch_function numpy_T _cast_Float _cast_Double _cast_Half
    _cast_Int _cast_Long sym_size sym_numel element_size get_device is_signed
"""
_LISTS = """
    append extend insert pop clear copy remove reverse count list dict keys values items get setdefault update
    popitem __getitem__ _set_item __contains__ Delete __range_length __derive_index range sorted format
    percentFormat str join lower upper startswith endswith strip replace find isdigit ord chr warn
"""
# What works on tensors; the rest is of TorchScript's own lists and texts.
TENSOR_OPERATORS = frozenset(
    " ".join((_CONVOLUTIONS, _NORMS, _ACTIVATIONS, _POOLING, _SHAPES, _NUMBERS, _MAKING, _FACTS)).split()
)
OPERATORS = TENSOR_OPERATORS | frozenset(_LISTS.split())
# Of the namespace prim, as ops.prim.NAME or as an attribute.
_PRIMITIVES = """
    dtype device layout is_cuda is_cpu is_mps is_xpu is_meta is_sparse is_quantized is_mkldnn is_nested is_vulkan
    is_xla is_ipu is_maia is_mtia requires_grad itemsize nbytes max min abs NumToTensor RaiseException
    unchecked_cast unchecked_unwrap_optional Uninitialized TupleIndex TupleUnpack StringIndex rangelist tolist type
    name EnumName EnumValue ModuleContainerIndex ConstantChunk VarConcat VarStack
"""
PRIMITIVES = frozenset(_PRIMITIVES.split())
