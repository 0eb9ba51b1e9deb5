package main

// figures are all that is measured, in order.
func figures() []figure {
	return []figure{
		{"setup-1", "SetUpPod, one plugin that does nothing", setUpFigure(setUpCase{plugins: 1, rounds: 1500, must: map[string]*bound{
			peerLib: ratioAtMost(1), theFloor: ratioAtMost(1.5),
		}})},
		{"setup-1-tmpfs", "SetUpPod, one plugin that does nothing, records on tmpfs", setUpFigure(setUpCase{plugins: 1, rounds: 700, tmpfs: true})},
		{"setup-1-go", "SetUpPod, one plugin that does nothing, written in Go", setUpFigure(setUpCase{plugins: 1, rounds: 500, goNoop: true})},
		{"setup-3", "SetUpPod, three plugins that do nothing", setUpFigure(setUpCase{plugins: 3, rounds: 700, must: map[string]*bound{
			peerLib: ratioAtMost(0.92),
		}})},
		{"storm", "pods at once, three plugins each", stormFigure},
		{"teardown", "TearDownPod and start-up beside recorded attachments", tearDownFigure},
		{"change", "a config change among 50 networks of 3 plugins", changeFigure},
		{"start", "start-up with 50 networks of 3 plugins", startFigure},
		{"status", "GetPodNetworkStatus and Status", statusFigure},
		{"hang", "SetUpPod beside a plugin that hangs and configs that churn", hangFigure},
		{"real", "bridge, host-local, portmap: SetUpPod", realFigure},
		{"real-storm", "bridge, host-local, portmap: 200 pods at once", realStormFigure},
		{"memory", "what a SetUpPod allocates", memoryFigure},
		{"leak", "what is left of 10,000 pods in and out", leakFigure},
	}
}
