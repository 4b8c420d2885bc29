"""The loop of the tutorials: DataLoader, default optimizer, numbers read every step."""

from torch.utils.data import DataLoader, TensorDataset

from systems.loops import repeated, tensors


def start(work):
    network = work.network()
    loader = DataLoader(TensorDataset(*tensors(work)), batch_size=work.batch, shuffle=True)
    optimizer = work.optimize(network)

    def epoch():
        total = right = 0.0
        for xb, yb in loader:
            optimizer.zero_grad()
            outputs = network(xb)
            loss = work.loss(outputs, xb, yb)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(xb)
            if work.name != "vae":
                right += (outputs.argmax(1) == yb).sum().item()
        return total / work.rows

    return repeated(epoch)
