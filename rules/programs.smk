"""Programs: networks as torch.export writes them, for PyTorch."""


rule export_program:
    """Export a checkpoint's folded network as a program: a .pt2 archive with a dynamic batch."""
    input:
        model="results/{dataset}/models/{model}.json",
        checkpoint="results/{dataset}/checkpoints/{model}.pth",
        images=proof_images,
        code=host_code("export_program.py"),
    output:
        program="results/{dataset}/programs/{model}.pt2",
    params:
        options=options(classes=dataset.classes),
    shell:
        '"$LEVIT_PYTHON" {input.code[0]:q} {params.files} {params.options} --log {log:q}'
