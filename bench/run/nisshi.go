package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// nisshiVersion is the newest of crates.io.
const nisshiVersion = "0.8.1"

// nisshiServer is a Nisshi (formerly Tansu), which speaks Kafka's protocol.
type nisshiServer struct {
	kafkaAPI
	bin    string
	engine string // URL of where it keeps its data, below the working folder
}

func newNisshi(ctx context.Context, addr, engine string) (*nisshiServer, error) {
	bin, err := installNisshi(ctx)
	if err != nil {
		return nil, err
	}
	return &nisshiServer{kafkaAPI(addr), bin, engine}, nil
}

// installNisshi gives the binary, which it builds once into the cache: half an
// hour of CPU time.
func installNisshi(ctx context.Context) (string, error) {
	cache, err := cacheFolder()
	if err != nil {
		return "", err
	}
	root := filepath.Join(cache, "tools", "nisshi-"+nisshiVersion)
	bin := filepath.Join(root, "bin", "nisshi")
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	cargo, err := exec.LookPath("cargo")
	if err != nil {
		return "", fmt.Errorf("Nisshi %s %w: it is built with cargo and a nightly Rust: %w", nisshiVersion, errNotHere, err)
	}
	if out, err := exec.CommandContext(ctx, cargo, "+nightly", "--version").CombinedOutput(); err != nil {
		return "", fmt.Errorf("Nisshi %s %w: it is built with a nightly Rust: %w: %s", nisshiVersion, errNotHere, err, out)
	}
	fmt.Fprintf(os.Stderr, "building Nisshi %s, once: half an hour of CPU time (into %s)\n", nisshiVersion, root)
	cmd := exec.CommandContext(ctx, cargo, "+nightly", "install", "--locked", "--root", root, "nisshi@"+nisshiVersion)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("Nisshi %s %w: its build failed: %w", nisshiVersion, errNotHere, err)
	}
	return bin, nil
}

// cacheFolder is where tools/build keeps what it builds.
func cacheFolder() (string, error) {
	if dir := os.Getenv("FIRN_CACHE"); dir != "" {
		return dir, nil
	}
	if dir := os.Getenv("XDG_CACHE_HOME"); dir != "" {
		return filepath.Join(dir, "firn"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", errors.Join(errors.New("no folder for what is built: set FIRN_CACHE"), err)
	}
	return filepath.Join(home, ".cache", "firn"), nil
}

func (n *nisshiServer) profile() string { return "" }

func (n *nisshiServer) command(string) ([]string, error) { return n.args(n.addr()), nil }

func (n *nisshiServer) args(addr string) []string {
	return []string{n.bin, "broker", "--listener-url", "tcp://" + addr, "--advertised-listener-url", "tcp://" + addr, "--storage-engine", n.engine}
}

func (n *nisshiServer) facts() []Fact {
	return []Fact{{"Nisshi", fmt.Sprint(nisshiVersion, ": ", append([]string{"nisshi"}, n.args("ADDR")[1:]...))}}
}
