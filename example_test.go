package podcni_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/podcni/podcni"
)

// A pod's life. The same code is in README.md.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cni, err := podcni.New(podcni.WithConfDir("/etc/cni/net.d"), podcni.WithBinDirs("/opt/cni/bin"))
	if err != nil {
		log.Fatal(err)
	}
	defer cni.Shutdown()
	if err := cni.Status(); err != nil {
		log.Print("not ready yet: ", err) // which file is wrong, which plugin is missing, ...
	}
	if err := cni.WaitReady(ctx); err != nil {
		log.Fatal(err)
	}
	sandbox, err := podcni.NewNetNS("", "web")
	if err != nil {
		log.Fatal(err)
	}
	pod := podcni.PodNetwork{ID: "4f2a", Namespace: "default", Name: "web", NetNS: sandbox.Path()}
	results, err := cni.SetUpPodWithContext(ctx, pod) // all of its networks, or none
	if err != nil {
		log.Fatal(errors.Join(err, sandbox.Remove()))
	}
	got, err := podcni.MergeResults(results)
	fmt.Println(got.Primary(), got.Interfaces, err)

	err = errors.Join(cni.TearDownPodWithContext(ctx, pod), sandbox.Remove())
	fmt.Println(err)
}

// The type of an error says which plugin failed, how it ended, and with which
// code.
func ExamplePluginError() {
	explain := func(err error) { // an error of SetUpPod or any other method
		var run *podcni.PluginError
		if errors.As(err, &run) {
			fmt.Printf("%s of plugin %s, network %s: exit status %d\n", run.Verb, run.Plugin, run.Network, run.Exit)
		}
		var answer *types.Error
		if errors.As(err, &answer) {
			fmt.Println("code", answer.Code)
		}
	}
	explain(&podcni.PodError{Op: "set up", ID: "4f2a", Err: &podcni.PluginError{
		Verb: "ADD", Network: "net", Plugin: "bridge", Exit: 1, Err: types.NewError(types.ErrTryAgainLater, "not now", ""),
	}})
	// Output:
	// ADD of plugin bridge, network net: exit status 1
	// code 11
}

// A runtime reports to its node whether pods can be attached.
func ExampleCNI_Updates() {
	report := func(ctx context.Context, cni *podcni.CNI) {
		updates := cni.Updates(ctx) // before the first report, so that no change is missed
		for {
			fmt.Println(len(cni.Networks()), cni.Rejected(), cni.StatusWithContext(ctx))
			if _, open := <-updates; !open {
				return // ctx has ended, or cni was shut down
			}
		}
	}
	_ = report
}

// New succeeds without a network. The CNI loads networks when they appear, and
// its status says until then why it is not ready.
func ExampleNew() {
	dir, err := os.MkdirTemp("", "podcni-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	cni, err := podcni.New(podcni.WithConfDir(dir), podcni.WithCacheDir(dir))
	if err != nil {
		log.Fatal(err)
	}
	defer cni.Shutdown()
	fmt.Println(errors.Is(cni.Status(), podcni.ErrNotReady))
	fmt.Println(len(cni.Networks()), len(cni.Rejected()))
	// Output:
	// true
	// 0 0
}

// podcni checks a pod before any plugin runs. The error names the field.
func ExampleCNI_SetUpPod() {
	dir, err := os.MkdirTemp("", "podcni-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	cni, err := podcni.New(podcni.WithConfDir(dir), podcni.WithCacheDir(dir), podcni.WithoutWatch())
	if err != nil {
		log.Fatal(err)
	}
	defer cni.Shutdown()
	_, err = cni.SetUpPod(podcni.PodNetwork{ID: "../escape", NetNS: "/run/netns/web"})
	var field *podcni.FieldError
	if errors.As(err, &field) {
		fmt.Println(field.Field, field.Value)
	}
	fmt.Println(errors.Is(err, podcni.ErrInvalidPod))
	// Output:
	// ID ../escape
	// true
}
